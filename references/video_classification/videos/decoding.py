"""The only reader of frames for training and prediction: probes a video, reads frames by index.

A frame's index is its position among the decoded frames, in display order: `read_frames(path, [0, 7, 14])` decodes
forward from the start, converts frames 0, 7 and 14 to RGB, and stops. Nothing seeks: seeking by time finds the wrong
frame in videos of variable rate, with edit lists or with B-frames, and a strip spans its video anyway. Where every
packet is known to be one frame, those that nobody asked for and no other frame refers to are not decoded.
"""

import errno
import os
import stat
import struct
from collections import deque
from collections.abc import Generator, Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import av
import numpy as np
import torch
from av.stream import Disposition
from torch import Tensor

from runtime.errors import UserError
from videos.pixels import display_matrix, is_transposed, rotation_of, to_rgb

# In these a packet that is not discarded is one frame, so counting needs no decoding. Elsewhere it may not be:
# VP8 hides reference frames, MPEG-4 in AVI packs two frames into one packet.
ONE_FRAME_A_PACKET = {"h264", "hevc"}
ONE_FRAME_A_PACKET_CONTAINERS = {"mp4", "matroska"}
# Of these, the one whose decoder leaves out frames without a trace in the others (tried with open GOPs cut in two too).
SKIPPED_IN = "h264"
MAX_PACKETS_BYTES = 64 << 20  # of a file whose packets are all held at once, so that some can be left out

LISTS_OF_FILES = ("concat", "hls", "dash", "imf", "sdp")  # FFmpeg's formats that are, as the dataset tools name them

# PyAV before 19 refuses a file whose title is not UTF-8, unless told otherwise; later versions have no such argument.
LENIENT_METADATA: dict[str, Any] = {"metadata_errors": "ignore"} if int(av.__version__.split(".")[0]) < 19 else {}

# FFmpeg's errors, and PyAV's own for what it has no name or no memory for.
READ_ERRORS = (av.FFmpegError, OSError, ValueError, LookupError, NotImplementedError, MemoryError)
# Of these, what may pass while the file stays as it is: the system refuses, or this FFmpeg lacks a part.
PASSING_ERRORS = (OSError, MemoryError, av.error.LookupError)
ERRORS_OF_BYTES = {errno.EOPNOTSUPP, errno.ENOTSUP}  # numbers of OSErrors that FFmpeg raises for what it cannot convert


class VideoError(UserError):
    """A video that cannot be read: `path`, `reason` in words, and whether it `is_lasting` until the file changes."""

    def __init__(self, path: str | os.PathLike, reason: str, is_lasting: bool = True) -> None:
        super().__init__(path, reason)  # both as args, so that the error survives pickling between processes
        self.path, self.reason, self.is_lasting = os.fspath(path), reason, is_lasting

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class VideoInfo(NamedTuple):
    """What a probe tells.

    frames: how many can be read. fps: the container's average rate, frames a second (frames / duration where the
    container gives none). seconds: duration. width, height: pixels of the first upright picture. rotation: degrees by
    which the stored picture is turned counter-clockwise for display (0, 90, 180 or -90). codec: FFmpeg's name.
    mirrored: whether left and right of the stored picture are swapped before it is turned.
    """

    frames: int
    fps: float
    seconds: float
    width: int
    height: int
    rotation: int
    codec: str
    mirrored: bool = False

    @property
    def is_upright(self) -> bool:
        """Whether the stored picture is shown as it is."""
        return not (self.rotation or self.mirrored)


def probe_video(path: str | os.PathLike) -> VideoInfo:
    """Reads every packet of the first video stream, decodes the first frame; decodes all only where it must to count.

    Raises:
        VideoError: no file, no video stream, no decoder, no frame, or an end that the header promises is missing.
    """
    with _open_video(path) as (container, stream):
        packets = _PacketScan(path, stream)
        for packet in container.demux(stream):
            packets.add(packet, packet.decode() if packets.first is None else [])
        packets.finish()
        container_names = set(container.format.name.split(","))
        countable = stream.codec_context.name in ONE_FRAME_A_PACKET and container_names & ONE_FRAME_A_PACKET_CONTAINERS
        frames = packets.count if countable and packets.is_regular else sum(1 for _ in iter_frames(path))
        return _video_info(container, stream, packets, frames)


def read_frames(path: str | os.PathLike, indices: Sequence[int] | Tensor) -> Tensor:
    """The frames at `indices` (any order, repeats allowed), upright, at native size: uint8 (T, H, W, C), RGB.

    Raises:
        VideoError: the video cannot be read, ends before the largest index, or these frames differ in size.
        ValueError: no index, or a negative one.
    """
    indices = [int(i) for i in indices]
    frames = dict(iter_rgb(path, indices))
    if len({frame.shape for frame in frames.values()}) > 1:
        raise VideoError(path, "the picture's size changes between the frames that were asked for")
    return torch.from_numpy(np.stack([frames[i] for i in indices]))


def iter_rgb(path: str | os.PathLike, indices: Sequence[int] | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (index, upright uint8 (H, W, C) RGB frame) for each distinct index, ascending; all without `indices`.

    Each frame has its own size. Rarely a video turns out not to be as its packets say: it then begins anew.
    Raises as `read_frames`, but for sizes that differ.
    """
    wanted = None if indices is None else set(indices)
    if wanted is not None and (not wanted or min(wanted) < 0):
        raise ValueError(f"frame indices must be given and not be negative, not {sorted(wanted)[:1]}")
    with open_whole(path) as video:
        for number, frame in video.frames(wanted):
            yield number, to_rgb(frame)
            if wanted is not None and number == max(wanted):
                return
        if wanted is not None:
            missing = min(number for number in wanted if number >= video.count)
            raise VideoError(path, f"decodes {video.count} frames only, frame {missing} was to be read")


def iter_frames(path: str | os.PathLike) -> Iterator[av.VideoFrame]:
    """Decodes the first video stream, in display order. Raises VideoError where FFmpeg reports an error."""
    with _open_video(path) as (container, stream):
        yield from container.decode(stream)


class WholeVideo:
    """One pass over a video, whole: its frames, then what `probe_video` tells. See `open_whole`.

    Attributes:
        count: frames so far; all of them when `frames` has come to its end.
    """

    def __init__(self, path: str | os.PathLike, stack: ExitStack) -> None:
        self._path, self._stack = path, stack
        self._open()

    def _open(self) -> None:
        self._container, self._stream = self._stack.enter_context(_open_video(self._path))
        self._scan, self.count = _PacketScan(self._path, self._stream), 0

    def promised_timing(self) -> tuple[int, float]:
        """(frames, fps), for choosing frames before they are counted: the header's word, or a probe's without one."""
        if self._stream.frames and self._stream.average_rate:
            return self._stream.frames, float(self._stream.average_rate)
        info = probe_video(self._path)
        return info.frames, info.fps

    def frames(self, wanted: Set[int] | None = None) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yields (index, frame) in display order: all, or those of `wanted`.

        Frames outside of `wanted` are decoded only where others may refer to them: what is damaged in one that is left
        out is not found. Should a video turn out not to be as its packets say, it begins anew and decodes everything.
        """
        if wanted is not None and self._may_leave_out():
            packets = list(self._container.demux(self._stream))
            if (order := _display_order(packets)) is not None and (yield from self._some(packets, order, wanted)):
                return
            self._open()  # the packets are used up
        for packet in self._container.demux(self._stream):
            frames = packet.decode()
            self._scan.add(packet, frames)
            for frame in frames:
                if wanted is None or self.count in wanted:
                    yield self.count, frame
                self.count += 1

    def info(self) -> VideoInfo:
        """Call it when `frames` has come to its end. Raises VideoError where `probe_video` does."""
        self._scan.finish()
        return _video_info(self._container, self._stream, self._scan, self.count)

    def _may_leave_out(self) -> bool:
        is_known = set(self._container.format.name.split(",")) & ONE_FRAME_A_PACKET_CONTAINERS
        is_small = os.path.getsize(self._path) <= MAX_PACKETS_BYTES
        return bool(is_known) and is_small and self._stream.codec_context.name == SKIPPED_IN

    def _some(
        self, packets: list[av.Packet], order: list[int], wanted: Set[int]
    ) -> Generator[tuple[int, av.VideoFrame], None, bool]:
        """Decodes the packets of `wanted`, and those that others may refer to.

        Args:
            packets: all of them, with the one that flushes the decoder.
            order: see `_display_order`.
            wanted: indices of frames.

        Returns:
            Whether the frames are what the packets say.
        """
        context, flush = self._stream.codec_context, packets.pop()
        # The first frame is looked at in any case.
        due = deque(index for index in sorted({0, *wanted}) if index < len(order))
        times = {order[index] for index in due}
        last = max((place for place, packet in enumerate(packets) if packet.pts in times))
        for packet in [*packets[: last + 1], flush]:
            context.skip_frame = "DEFAULT" if packet is flush or packet.pts in times else "NONREF"
            frames = packet.decode()
            self._scan.add(packet, frames)
            for frame in frames:
                if frame.interlaced_frame or frame.pts is None:
                    return False  # a packet may be one field only
                if not due:
                    continue
                time = order[due[0]]
                if frame.pts > time or (due[0] == 0 and frame.pts < time):
                    return False  # the decoder has dropped what it cannot show
                if frame.pts == time and (index := due.popleft()) in wanted:
                    yield index, frame
        for packet in packets[last + 1 :]:
            self._scan.add(packet, [])
        self.count = len(order)
        return not due


@contextmanager
def open_whole(path: str | os.PathLike) -> Iterator[WholeVideo]:
    """Opens a video for one pass over it; inside, every failure to read it is raised as VideoError."""
    with ExitStack() as stack:
        yield WholeVideo(path, stack)


def _display_order(packets: Sequence[av.Packet]) -> list[int] | None:
    """The presentation times of a stream's frames, ascending, where each packet surely is one frame; else None."""
    data = [packet for packet in packets if packet.size]
    times = [packet.pts for packet in data if packet.pts is not None]
    if not times or len(set(times)) < len(data) or len(packets) != len(data) + 1:
        return None
    if not data[0].is_keyframe or min(times) != times[0]:  # a decoder drops what is shown before the first key frame
        return None
    if any(packet.is_discard or packet.is_corrupt for packet in data):
        return None
    return sorted(times)


class _PacketScan:
    """Counts a stream's packets and keeps the first frame."""

    def __init__(self, path: str | os.PathLike, stream) -> None:
        self.path, self.stream = path, stream
        self.count = 0
        self.is_regular = True  # the count of packets is the count of frames
        self.first_pts: int | None = None
        self.end: int | None = None  # of the last packet
        self._dts_end = 0
        self.first: av.VideoFrame | None = None
        self._with_data = 0

    def add(self, packet: av.Packet, frames: list[av.VideoFrame]) -> None:
        """Takes the next packet, and the frames that came out of it."""
        if self.first is None and frames:
            self.first = frames[0]
        if not packet.size:
            return  # the flush at the end
        # In a transport stream it may be a join of two recordings; its frames are counted by decoding anyway.
        if packet.is_corrupt and self._container_name != "mpegts":
            raise VideoError(self.path, "a packet is cut short: the file is truncated or damaged")
        self._with_data += 1
        time = packet.dts if packet.pts is None else packet.pts
        if time is not None:
            end = time + (packet.duration or 0)
            self.end = end if self.end is None else max(self.end, end)
        self._dts_end = max(self._dts_end, (packet.dts or 0) + (packet.duration or 0))
        if packet.is_discard:
            self.is_regular = False  # an edit list: decoders may or may not keep the frames around the cut
            return
        if packet.pts is None or (self.count == 0 and not packet.is_keyframe):
            self.is_regular = False
        elif self.first_pts is None:
            self.first_pts = packet.pts
        elif packet.pts < self.first_pts:
            self.is_regular = False  # shown before the first key frame: a decoder drops it
        self.count += 1

    def finish(self) -> None:
        """Call it once every packet was added. Raises VideoError."""
        if self._with_data < self.stream.frames:
            self._require_whole()
        if self.first is None:
            raise VideoError(self.path, "holds no frame that decodes")
        self.is_regular &= not self.first.interlaced_frame  # a packet may hold one field only
        self.is_regular &= self.first.pts == self.first_pts  # a stream cut in its middle decodes from some later frame

    def _require_whole(self) -> None:
        """Raises VideoError unless the packets that are missing from the header's count need not be there."""
        found = self._with_data
        if self._container_name == "avi":
            # A chunk without data repeats a frame, takes its time, and is left out by the demuxer.
            found = max(found + _count_empty_chunks(self.path, self.stream.index), self._dts_end)
        elif "mp4" in self._container_name:
            found = _count_all_packets(self.path, self.stream.index)
        if found < self.stream.frames:
            counts = f"{found} of {self.stream.frames} frames"
            raise VideoError(self.path, f"holds data for {counts} that its header promises: truncated")

    @property
    def _container_name(self) -> str:
        return self.stream.container.format.name


def _count_all_packets(path: str | os.PathLike, stream_index: int) -> int:
    """With those that an edit list hides altogether."""
    with av.open(str(Path(path).absolute()), options={"ignore_editlist": "1"}, **LENIENT_METADATA) as container:
        return sum(packet.size > 0 for packet in container.demux(container.streams[stream_index]))


def _count_empty_chunks(path: str | os.PathLike, stream_index: int) -> int:
    """Chunks of an AVI file's stream that hold nothing, up to the end of the file or the first damage."""
    name, size = b"%02d" % stream_index, os.path.getsize(path)
    position, count = 0, 0
    with open(path, "rb") as file:
        while position + 8 <= size:
            file.seek(position)
            kind, length = struct.unpack("<4sI", file.read(8))
            if kind in (b"RIFF", b"LIST"):  # chunks in a chunk, after four bytes that name it
                position += 12
                continue
            count += kind.startswith(name) and length == 0
            position += 8 + length + length % 2
    return count


@contextmanager
def _open_video(path: str | os.PathLike):
    """Yields (container, first real video stream); every failure of FFmpeg inside becomes a VideoError."""
    try:
        # Opening a pipe would wait for ever; a directory's error would be puzzling.
        if not _is_regular_file(path):
            raise VideoError(path, "not a regular file", is_lasting=False)
        # Absolute, so that FFmpeg never takes a name such as `a:b.mp4` for a protocol.
        with av.open(str(Path(path).absolute()), **LENIENT_METADATA) as container:
            if container.format.name == "tty":
                raise VideoError(path, "is text, not a video")  # which FFmpeg would show as on a terminal
            if container.format.name in LISTS_OF_FILES:  # the frames would be those of others
                raise VideoError(path, "is a list of other files, not a video")
            if container.format.name.endswith("_pipe") or container.format.name == "image2":
                raise VideoError(path, "is a picture, not a video")
            streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
            if not streams:
                raise VideoError(path, "holds no video stream")
            stream = streams[0]
            if stream.codec_context is None:
                raise VideoError(path, "FFmpeg has no decoder for its video stream", is_lasting=False)
            # One thread: the parallelism is over videos, and stopping early can deadlock FFmpeg's frame threads.
            stream.codec_context.thread_count = 1
            yield container, stream
    except VideoError:
        raise
    except MemoryError as error:
        raise VideoError(path, "needs more memory than there is", is_lasting=False) from error
    except READ_ERRORS as error:
        reason = getattr(error, "strerror", None) or f"PyAV fails on it ({type(error).__name__}: {error})"
        may_pass = isinstance(error, PASSING_ERRORS) and getattr(error, "errno", None) not in ERRORS_OF_BYTES
        raise VideoError(path, reason, is_lasting=not may_pass) from error


def _is_regular_file(path: str | os.PathLike) -> bool:
    """Raises OSError, and VideoError for a name that no file can have."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except ValueError as error:  # a NUL byte, or half a character
        raise VideoError(path, f"not a file's name: {error}") from error


def _video_info(container, stream, packets: _PacketScan, frames: int) -> VideoInfo:
    first = cast(av.VideoFrame, packets.first)  # `finish` has asked for it
    matrix = display_matrix(first)
    width, height = first.width, first.height
    if is_transposed(matrix):
        width, height = height, width
    seconds = _duration_seconds(container, stream, packets)
    average_rate = float(stream.average_rate or 0)
    fps = average_rate if average_rate > 0 else frames / seconds
    rotation, mirrored = rotation_of(matrix)
    return VideoInfo(frames, fps, seconds, width, height, rotation, stream.codec_context.name, mirrored)


def _duration_seconds(container, stream, packets: _PacketScan) -> float:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if container.duration:
        return container.duration / av.time_base
    if packets.first_pts is not None and packets.end is not None and packets.end > packets.first_pts:
        return float((packets.end - packets.first_pts) * stream.time_base)
    rate = stream.guessed_rate
    if not rate:
        raise VideoError(packets.path, "tells neither a frame rate nor a duration")
    return packets.count / float(rate)
