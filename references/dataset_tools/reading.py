"""Reading every frame of a video and counting what went wrong, by PyAV or the ffmpeg program; apart from the verdicts.

A decoder conceals damage: it makes up what is missing and goes on. It tells so in three ways, all of which are counted
here: by an error, by a mark on the frame, or only by a line in its log.
"""

import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import av
import av.logging

# The decoder says these of intact streams too, so they do not count.
HARMLESS_MESSAGES = ("mmco: unref short failure", "co located POCs unavailable", "SEI type")
# A zeroed block decodes without a word in some codecs. None of these holds so many zeros in packets without start
# codes: H.264 and HEVC forbid three in a row, the others compress them away. (Intra codecs of cameras pad.)
ZERO_RUN = bytes(64)
CODECS_WITHOUT_ZERO_RUNS = {"h264", "hevc", "vp8", "vp9", "libvpx", "libvpx-vp9"}
MPEG4_EMPTY_FRAME_BYTES = 19  # a "not coded" frame is no longer than this, as in FFmpeg's MAX_NVOP_SIZE


@dataclass
class Reading:
    """What reading one video stream to its end gave. Times are in seconds."""

    packets: int = 0  # of the video stream, with something in them
    empty_packets: int = 0  # an AVI file repeats a frame by an empty packet
    discarded: int = 0  # packets that an edit list hides
    silent: int = 0  # packets that by design give no frame
    encrypted: bool = False
    frames: int = 0
    corrupt_frames: int = 0
    interlaced: bool = False
    errors: int = 0  # packets that gave an error
    first_error: str = ""
    container_error: str = ""
    start: float | None = None  # of the first frame
    end: float = 0.0  # of the last frame
    last_end: float = 0.0  # of the last packet in any stream
    times: list[float] = field(default_factory=list)  # of the frames, where the container does not count them

    @property
    def longest_gap(self) -> float:
        """Between the times of two frames, in seconds."""
        times = sorted(self.times)
        return max((later - earlier for earlier, later in zip(times, times[1:], strict=False)), default=0.0)

    @property
    def seconds(self) -> float:
        return self.end - self.start if self.start is not None else 0.0

    def note_error(self, message: str) -> None:
        self.errors += 1
        self.first_error = self.first_error or message


def read_with_av(path: str, container: av.container.InputContainer, stream: av.VideoStream) -> Reading:
    """Decodes in this thread, which is what lets the decoder's log be captured."""
    reading = Reading()
    decoder = stream.codec_context
    decoder.thread_count = 1
    decoder.options = {"err_detect": "crccheck"}
    with av.logging.Capture() as log:
        for packet in _demux(container, stream, reading):
            problem = ""
            try:
                for frame in packet.decode():
                    reading.frames += 1
                    reading.corrupt_frames += frame.is_corrupt
                    reading.interlaced = reading.interlaced or frame.interlaced_frame
            except MemoryError:
                raise
            except (av.FFmpegError, ValueError) as error:
                problem = getattr(error, "strerror", None) or str(error)
            if log:
                problem = _take_log(log, decoder.name, container.format.name, reading) or problem
            if problem or packet.is_corrupt:
                reading.note_error(problem or "the container marks a packet as damaged")
        _take_log(log, decoder.name, container.format.name, reading)
    return reading


def read_with_ffmpeg(path: str, container: av.container.InputContainer, stream: av.VideoStream) -> Reading:
    """Takes the packets from PyAV, and the frames and errors from the `ffmpeg` program on the PATH."""
    reading = Reading()
    for packet in _demux(container, stream, reading):
        if packet.is_corrupt:
            reading.note_error("the container marks a packet as damaged")
    command = [
        "ffmpeg",
        "-nostdin",
        "-hide_banner",
        "-loglevel",
        "repeat+level+error",
        "-progress",
        "pipe:1",
        "-nostats",
    ]
    command += ["-threads", "1", "-protocol_whitelist", "file,pipe", "-i", f"file:{path}", "-map", f"0:{stream.index}"]
    command += ["-fps_mode", "passthrough", "-f", "null", "-"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    for line in done.stdout.splitlines():
        key, _, value = line.partition("=")
        if key == "frame":
            reading.frames = int(value)
    for line in done.stderr.splitlines():
        if "[error]" in line or "[fatal]" in line:
            name, _, message = line.partition(" @ ")
            message = (message or line).rpartition("[error] ")[2].rpartition("[fatal] ")[2]
            if not message.startswith(HARMLESS_MESSAGES):
                reading.note_error(message)
    if done.returncode < 0:
        reading.note_error(f"the ffmpeg program crashed on it ({signal.Signals(-done.returncode).name})")
    elif done.returncode:
        reading.note_error(f"the ffmpeg program gave exit code {done.returncode}")
    return reading


READERS: dict[str, Callable[[str, av.container.InputContainer, av.VideoStream], Reading]] = {
    "av": read_with_av,
    "ffmpeg": read_with_ffmpeg,
}


def _demux(container: av.container.InputContainer, stream: av.VideoStream, reading: Reading) -> Iterator[av.Packet]:
    """The packets of `stream`, the empty one that flushes its decoder last, counted in `reading`."""
    # With a declared count the other streams need not be read; without, their ends tell whether the tail is there.
    streams = [stream] if stream.frames else list(container.streams)
    may_hold_zeros = _may_hold_zeros(stream.codec_context)
    gives_no_frame = SILENT_PACKETS.get(stream.codec_context.name, lambda packet: False)
    try:
        for packet in container.demux(streams):
            time = packet.pts if packet.pts is not None else packet.dts
            if time is not None:
                start, end = float(time * packet.time_base), float((time + (packet.duration or 0)) * packet.time_base)
                reading.last_end = max(reading.last_end, end)
            if packet.stream.index != stream.index:
                continue
            if time is not None and not packet.is_discard:
                reading.start = start if reading.start is None else min(start, reading.start)
                reading.end = max(end, reading.end)
                if not stream.frames:
                    reading.times.append(start)
            reading.packets += packet.size > 0
            reading.discarded += packet.is_discard
            if not may_hold_zeros and ZERO_RUN in bytes(packet):
                reading.note_error("a block of zeros in the video data")
            reading.silent += packet.size > 0 and gives_no_frame(packet)
            if packet.size == 0 and time is not None:
                reading.empty_packets += 1
            elif reading.packets == 1:
                has_sidedata = getattr(packet, "has_sidedata", None)  # not in the oldest PyAV
                reading.encrypted = bool(has_sidedata and has_sidedata("encryption_info"))
            yield packet
    except av.FFmpegError as error:
        reading.container_error = error.strerror or str(error)


def _may_hold_zeros(decoder: av.VideoCodecContext) -> bool:
    has_start_codes = decoder.name in ("h264", "hevc") and (decoder.extradata or b"\0")[0] != 1
    return has_start_codes or decoder.name not in CODECS_WITHOUT_ZERO_RUNS


def _take_log(log: list[tuple[int, str, str]], decoder: str, container: str, reading: Reading) -> str:
    """Empties the captured log; gives the decoder's first complaint in it, and notes the container's."""
    complaint = ""
    for _, source, message in log:
        message = message.strip()
        if source == decoder and not complaint and not message.startswith(HARMLESS_MESSAGES):
            complaint = message
        elif source == container and not reading.container_error:
            reading.container_error = message
    log.clear()
    return complaint


def _is_hidden_vp8(packet: av.Packet) -> bool:
    """A VP8 frame made only to be referred to: its header's show_frame bit is off."""
    return not memoryview(packet)[0] & 0x10


def _is_not_coded_mpeg4(packet: av.Packet) -> bool:
    return packet.size <= MPEG4_EMPTY_FRAME_BYTES


SILENT_PACKETS: dict[str, Callable[[av.Packet], bool]] = {"vp8": _is_hidden_vp8, "mpeg4": _is_not_coded_mpeg4}
