"""Read every frame of a video and count what went wrong, with PyAV or the ffmpeg program.

A decoder conceals damage: it makes up what is missing and goes on. It reports this in one of three ways, all of which
are counted here: as an error, as a flag on the frame, or only as a line in its log.
"""

import contextlib
import itertools
import os
import signal
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import av
import av.logging

from references.dataset_tools.ffmpeg_program import CORRUPT_FRAME, decode_with_ffmpeg, read_log
from references.dataset_tools.hidden_frames import gives_no_frame
from references.dataset_tools.workers import report_progress

# Open options: a file must not be able to make FFmpeg open another file, or a network connection.
OPEN_OPTIONS = {"protocol_whitelist": "file"}
# PyAV before 19 refuses tags that are not UTF-8, unless told otherwise; later versions have no such argument.
LENIENT_METADATA: dict[str, Any] = (
    {"metadata_errors": "surrogateescape"} if int(av.__version__.split(".")[0]) < 19 else {}
)
# Decoders log these for intact streams too, so they do not count.
# The last is said of an index that is cut short, too; a packet of a stream that is so cut carries a mark.
HARMLESS_MESSAGES = ("mmco: unref short failure", "co located POCs unavailable", "SEI type", "Truncating packet")
# Some codecs decode a zeroed block without complaint. None of these contains so many zeros in packets without start
# codes: H.264 and HEVC forbid three in a row, the others compress them away. (Intra codecs of cameras pad.)
ZERO_RUN = bytes(64)
CODECS_WITHOUT_ZERO_RUNS = {"h264", "hevc", "vp8", "vp9", "libvpx", "libvpx-vp9"}
# Decoders that find all damage without their loop filter, which only smooths the picture: a fifth of H.264's time, a
# quarter of VP8's. HEVC needs it, since a stream may hold checksums of its pictures; the others gain nothing.
DECODERS_WITHOUT_LOOP_FILTER = {"h264", "vp8"}
AV1_DECODERS = {"av1", "libdav1d", "libaom-av1", "libgav1"}
FRAMES_AT_THE_START = 250  # an interlaced video has an interlaced frame among these


@dataclass
class Reading:
    """The result of reading one video stream to its end. Times are in seconds."""

    packets: int = 0  # of the video stream, empty ones not counted
    empty_packets: int = 0  # which repeat a frame
    discarded: int = 0  # packets that an edit list hides
    silent: int = 0  # packets that by design give no frame
    leading: int = 0  # packets shown before the first keyframe, which only what was cut off before it could decode
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
    last_dts_end: int = 0  # of the last packet, in units of the stream's time base
    times: list[float] = field(default_factory=list)  # of the frames, if the container does not count them

    @property
    def intervals(self) -> list[float]:
        """The times between successive frames."""
        times = sorted(self.times)
        return [later - earlier for earlier, later in zip(times, times[1:], strict=False)]

    @property
    def longest_gap(self) -> float:
        return max(self.intervals, default=0.0)

    @property
    def is_without_gap(self) -> bool:
        """Whether the frames follow each other evenly, so that none was lost between two others."""
        return bool(self.intervals) and self.longest_gap < 1.5 * statistics.median(self.intervals)

    @property
    def expected_frames(self) -> int:
        """The number of frames that the packets give if none is damaged."""
        expected = self.packets - self.discarded - self.silent
        return (expected + 1) // 2 if self.interlaced else expected  # each of a frame's two fields may be a packet

    @property
    def seconds(self) -> float:
        return self.end - self.start if self.start is not None else 0.0

    def note_error(self, message: str) -> None:
        self.errors += 1
        self.first_error = self.first_error or message


def open_video(path: str, **options: str) -> av.container.InputContainer:
    """Open a file with further open options. Tags in any encoding are kept."""
    # With `options`, which go to the streams too, PyAV 16 crashes on streams that are found while probing (FLV, MPEG).
    return av.open(path, container_options=OPEN_OPTIONS | options, **LENIENT_METADATA)


def decoder_options(decoder: str) -> dict[str, str]:
    """Options with which PyAV's decoder of this name tells of all the damage that it can find."""
    options = {"err_detect": "crccheck"}
    return options | {"skip_loop_filter": "all"} if decoder in DECODERS_WITHOUT_LOOP_FILTER else options


def demux_packets(container: av.container.InputContainer, streams: list[av.stream.Stream]) -> Iterator[av.Packet]:
    # PyAV ends with an IndexError, after the last packet, if a stream began after the file was opened.
    with contextlib.suppress(IndexError):
        yield from container.demux(streams)


def read_with_av(path: str, container: av.container.InputContainer, stream: av.VideoStream) -> Reading:
    """Decode in this thread, which is what allows the decoder's log to be captured."""
    reading = Reading()
    decoder = stream.codec_context
    decoder.thread_count = 1
    decoder.options = decoder_options(decoder.name)
    with av.logging.Capture() as log:
        for packet, is_leading in _demux(path, container, stream, reading):
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
            if (problem and not is_leading) or packet.is_corrupt:
                reading.note_error(problem or "the container marks a packet as damaged")
        _take_log(log, decoder.name, container.format.name, reading)
    return reading


def read_with_ffmpeg(path: str, container: av.container.InputContainer, stream: av.VideoStream) -> Reading:
    """Take the packets from PyAV, and the frames and errors from the `ffmpeg` program on the PATH."""
    reading = Reading()
    decoder, demuxer = stream.codec_context, container.format.name
    excused: Counter[str] = Counter()  # what the decoder says of leading packets
    with av.logging.Capture() as log:
        for packet, is_leading in _demux(path, container, stream, reading):
            if packet.is_corrupt:
                reading.note_error("the container marks a packet as damaged")
            if is_leading or reading.packets == 1:  # the program does not tell what it complains of
                with contextlib.suppress(av.FFmpegError, ValueError):
                    packet.decode()
            if is_leading:
                excused.update(message.strip() for _, source, message in log if source == decoder.name)
            _take_log(log, decoder.name, demuxer, reading)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as lines:
        reading.frames, exit_code = decode_with_ffmpeg(path, stream.index, lines, report_progress)
        for source, message in read_log(lines):
            # What its demuxer says, PyAV's has said, and here it may be of the header alone, which does not count.
            if CORRUPT_FRAME in message:
                reading.corrupt_frames += 1
            elif _is_of_decoder(source, decoder) and not message.startswith(HARMLESS_MESSAGES):
                if not excused[message]:
                    reading.note_error(message)
                excused[message] = max(excused[message] - 1, 0)
    if exit_code < 0:
        reading.note_error(f"the ffmpeg program crashed on it ({signal.Signals(-exit_code).name})")
    elif exit_code:
        reading.note_error(f"the ffmpeg program gave exit code {exit_code}")
    if reading.frames < reading.expected_frames:
        reading.interlaced = _is_interlaced(path, stream.index)
    return reading


def _is_of_decoder(source: str, decoder: av.VideoCodecContext) -> bool:
    """Whether a line in the log of the `ffmpeg` program is of the video's decoder, of whatever name there.

    The muxer complains too, of time stamps, and so do the decoders of other streams, which the program probes.
    """
    names = {decoder.name, decoder.codec.canonical_name}
    if names & AV1_DECODERS:
        names |= AV1_DECODERS
    return not source or source in names or source.startswith(("vist#", "dec:"))


def _is_interlaced(path: str, index: int) -> bool:
    """Whether a frame is interlaced, which the program does not say."""
    with av.logging.Capture(), contextlib.suppress(av.FFmpegError), open_video(path) as container:
        packets = demux_packets(container, [container.streams[index]])
        frames = (frame for packet in packets for frame in packet.decode())
        for frame in itertools.islice(frames, FRAMES_AT_THE_START):
            report_progress()
            if frame.interlaced_frame:
                return True
    return False


READERS: dict[str, Callable[[str, av.container.InputContainer, av.VideoStream], Reading]] = {
    "av": read_with_av,
    "ffmpeg": read_with_ffmpeg,
}


def _demux(
    path: str, container: av.container.InputContainer, stream: av.VideoStream, reading: Reading
) -> Iterator[tuple[av.Packet, bool]]:
    """The packets of `stream`, counted in `reading`, and whether each is a leading packet. The last one is empty: it
    flushes the decoder."""
    # With a declared count the other streams need not be read; without, their ends tell whether the tail is there.
    streams: list[av.stream.Stream] = [stream] if stream.frames else list(container.streams)
    may_hold_zeros = _may_hold_zeros(stream.codec_context)
    codec = stream.codec_context.codec.canonical_name
    leading = _LeadingPackets()
    bytes_left = os.path.getsize(path)  # a file that gives more than it holds makes no progress
    try:
        for packet in demux_packets(container, streams):
            bytes_left -= packet.size + 1
            if bytes_left >= 0:
                report_progress()
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
            if packet.dts is not None:
                reading.last_dts_end = max(reading.last_dts_end, packet.dts + (packet.duration or 0))
            reading.packets += packet.size > 0
            reading.discarded += packet.is_discard
            if not may_hold_zeros and ZERO_RUN in bytes(packet):
                reading.note_error("a block of zeros in the video data")
            is_leading = packet.size > 0 and leading.includes(packet)
            if packet.size:
                if not packet.is_discard:
                    reading.silent += gives_no_frame(codec, memoryview(packet))
                    reading.leading += is_leading
                if reading.packets == 1:
                    reading.encrypted = packet.has_sidedata("encryption_info")
            elif time is not None:
                reading.empty_packets += 1
            yield packet, is_leading
    except av.FFmpegError as error:
        reading.container_error = error.strerror or str(error)


class _LeadingPackets:
    """The leading packets of a stream's first keyframe: decoded after it, but shown before it.

        decoded   I4 B2 B3 | P7 B5 ...        shown   B2 B3 I4 B5 ...

    Where a stream was cut at the keyframe of an open GOP, they refer to frames that are no longer there. Decoders leave
    them out without an error. A container that cannot hold times before its start has none for them, or almost the
    keyframe's.
    """

    def __init__(self) -> None:
        self.keyframe_pts: int | None = None
        self.has_ended = False

    def includes(self, packet: av.Packet) -> bool:
        if self.keyframe_pts is None:
            self.keyframe_pts = packet.pts
            self.has_ended = not packet.is_keyframe or packet.pts is None
            return False
        if packet.pts is None:
            is_before = packet.dts is None
        else:
            is_before = packet.pts < self.keyframe_pts + (packet.duration or 0) / 2
        self.has_ended = self.has_ended or packet.is_keyframe or not is_before
        return not self.has_ended


def _may_hold_zeros(decoder: av.VideoCodecContext) -> bool:
    has_start_codes = decoder.name in ("h264", "hevc") and (decoder.extradata or b"\0")[0] != 1
    return has_start_codes or decoder.name not in CODECS_WITHOUT_ZERO_RUNS


def _take_log(log: list[tuple[int, str, str]], decoder: str, container: str, reading: Reading) -> str:
    """Empty the captured log; return the decoder's first complaint in it, and note the container's."""
    complaint = ""
    for _, source, message in log:
        message = message.strip()
        if source == decoder and not complaint and not message.startswith(HARMLESS_MESSAGES):
            complaint = message
        elif source == container and not reading.container_error:
            reading.container_error = message
    log.clear()
    return complaint
