"""Decide whether a video is readable, and if not, say why in plain words.

A video is readable if its first real video stream decodes to at least one frame, without a decode error and with every
frame that its container promises. The functions here run in the calling process; workers.py guards against crashes.
"""

import errno
import os
import stat
from typing import NamedTuple

import av
import av.logging

from references.dataset_tools.ffmpeg_program import require_ffmpeg
from references.dataset_tools.promises import complaint_concerns_video, count_missing_frames, count_swallowed_frames
from references.dataset_tools.reading import READERS, Reading, open_video
from references.dataset_tools.workers import report_progress

MAX_PIXELS = 1 << 26  # of a frame: 8192 x 8192
FEW_PACKETS = {"probesize": "32", "analyzeduration": "1"}
LISTS_OF_FILES = ("concat", "hls", "dash", "imf", "sdp")
READ_BYTES = 1 << 20  # at a time
# FFmpeg says EIO of files that are cut within their headers, so it is not among these.
NOT_THE_FILES_FAULT = {errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOENT, errno.ENODEV}
KINDS = {
    stat.S_IFDIR: "a folder, not a file",
    stat.S_IFIFO: "a named pipe, not a file",
    stat.S_IFSOCK: "a socket, not a file",
    stat.S_IFCHR: "a device, not a file",
    stat.S_IFBLK: "a device, not a file",
}


class ProbeOptions(NamedTuple):
    """What counts as readable."""

    prober: str = "av"  # a key of READERS
    max_corrupt_frames: int = 0  # that are tolerated
    min_frames: int = 1


class Verdict(NamedTuple):
    """What a probe found."""

    status: str  # "ok", "bad", or "error" if the file could not be judged
    reason: str = ""  # of "ok": the damage that is tolerated
    frames: int = 0  # that were decoded
    seconds: float = 0.0  # from the first frame to the end of the last
    promised_frames: int = 0  # those, and the ones that are missing or could not be decoded
    tail_is_missing: bool = False  # then no remux can repair it


class NotReadable(Exception):
    """The end of a probe, with its reason and status."""

    def __init__(self, reason: str, status: str = "bad"):
        super().__init__(reason)
        self.status = status


def require_prober(prober: str) -> None:
    """Raise RuntimeError if the program that the prober needs is absent, does not run or is too old."""
    if prober == "ffmpeg":
        require_ffmpeg()


def probe(path: str, options: ProbeOptions) -> Verdict:
    """Read the whole file and judge it. Never raises for what a file holds."""
    path = os.path.abspath(path)  # so that no name is taken for an option or a protocol
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    try:
        _require_regular_file(path)
        verdict = _read_and_judge(path, options)
        if verdict.status == "bad":
            _require_readable_bytes(path)
        return verdict
    except NotReadable as reason:
        return Verdict(reason.status, str(reason))
    except OSError as error:
        return Verdict("error", f"could not be read: {error.strerror or error}")


def _read_and_judge(path: str, options: ProbeOptions) -> Verdict:
    try:
        with av.logging.Capture() as log:
            container = open_video(path)
        with container:
            _require_video_format(container.format.name)
            stream = first_video_stream(container)
            _require_decodable(stream)
            reading = READERS[options.prober](path, container, stream)
            reading.container_error = _find_early_complaint(path, container, log) or reading.container_error
            return judge(path, container, stream, reading, options)
    except NotReadable as reason:
        return Verdict(reason.status, str(reason))
    except MemoryError:
        return Verdict("bad", "needs more memory than a worker may take")
    except av.FFmpegError as error:
        if error.errno in NOT_THE_FILES_FAULT:
            return Verdict("error", f"could not be read: {error.strerror}")
        return Verdict("bad", _explain_open_error(path, error))


def _require_readable_bytes(path: str) -> None:
    """Raise OSError if the disk does not give the whole file, which FFmpeg takes for a file that ends there."""
    with open(path, "rb", buffering=0) as file:
        while file.read(READ_BYTES):
            report_progress()


def _require_regular_file(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):
            raise NotReadable(KINDS.get(stat.S_IFMT(mode), "not a regular file"))
        if os.path.getsize(path) == 0:
            raise NotReadable("empty (0 bytes)")
        with open(path, "rb"):
            pass
    except FileNotFoundError:
        if os.path.islink(path):
            raise NotReadable(f"a symbolic link to nothing: {os.readlink(path)}") from None
        raise NotReadable("disappeared while the check ran", "error") from None
    except PermissionError:
        raise NotReadable("no permission to read it") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotReadable("a symbolic link that leads to itself") from None
        raise


def _find_early_complaint(path: str, container: av.container.InputContainer, log: list[tuple[int, str, str]]) -> str:
    """The container's first complaint about the packets that are read to open it, or "".

    It need not be repeated when they are read again. Complaints about the headers alone do not count.
    """
    complaints = [message for _, source, message in log if source == container.format.name]
    if not complaints:
        return ""
    with av.logging.Capture() as headers_log, open_video(path, **FEW_PACKETS):
        said_of_headers = {message for _, _, message in headers_log}
    return next((message.strip() for message in complaints if message not in said_of_headers), "")


def _require_video_format(name: str) -> None:
    if name.endswith("_pipe") or name == "image2":
        raise NotReadable("a picture, not a video")
    if name in LISTS_OF_FILES:
        raise NotReadable("a list of other files, not a video")


def first_video_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The first video stream that is not a cover picture. Raises NotReadable if there is none."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    if container.streams.video:
        raise NotReadable("holds only a cover picture, no video")
    kinds = sorted({stream.type for stream in container.streams})
    raise NotReadable(f"holds no video, only {' and '.join(kinds)}" if kinds else "holds no video")


def _require_decodable(stream: av.VideoStream) -> None:
    decoder = stream.codec_context
    if decoder is None:
        raise NotReadable("its video codec has no decoder here")
    if decoder.width * decoder.height > MAX_PIXELS:
        raise NotReadable(f"too many pixels a frame: {decoder.width}x{decoder.height}")


def judge(path: str, container, stream: av.VideoStream, reading: Reading, options: ProbeOptions) -> Verdict:
    """The verdict on a reading.

    Args:
        path: the file.
        container: the file, opened.
        stream: the video stream that was read.
        reading: the result of reading it.
        options: what counts as readable.
    """
    missing = count_missing_frames(path, container, stream, reading)
    lost = missing + count_swallowed_frames(reading)
    is_cut = complaint_concerns_video(container, stream, reading) or missing > 0
    damaged = max(reading.errors, reading.corrupt_frames + lost, int(is_cut))
    promised = reading.frames + lost
    damage = _describe_damage(reading, missing, lost, promised)
    verdict = Verdict("bad", damage, reading.frames, reading.seconds, promised, tail_is_missing=is_cut)
    if reading.frames == 0:
        return verdict._replace(reason=damage or "gives no frame: it has a header, but no video data")
    if damaged > options.max_corrupt_frames:
        return verdict
    if reading.frames < options.min_frames:
        reason = f"too few frames: {reading.frames}, but at least {options.min_frames} are required"
        return verdict._replace(reason=reason)
    return verdict._replace(status="ok", reason=f"tolerated: {damage}" if damage else "")


def _describe_damage(reading: Reading, missing: int, lost: int, promised: int) -> str:
    parts = []
    if reading.encrypted and not reading.frames:
        return "encrypted"
    if missing:
        parts.append(f"its end or a piece is missing: {reading.frames} of {promised} promised frames were read")
    elif lost:
        parts.append(f"frames that could not be decoded: {lost} of {promised}")
    if reading.errors:
        parts.append(f"decode errors: {reading.errors}, the first: {reading.first_error}")
    elif reading.corrupt_frames:
        parts.append(f"frames that the decoder marks as damaged: {reading.corrupt_frames}")
    if reading.container_error and not parts:
        parts.append(f"the container is damaged: {reading.container_error}")
    return "; ".join(parts)


def _explain_open_error(path: str, error: av.FFmpegError) -> str:
    if error.errno == errno.EIO:
        return "cut short within its header"
    _, _, _, log = (*error.args, None, None)[:4]  # code, message, file and, where there is one, the last line logged
    last_log = log[2].strip() if log else ""
    if last_log == "moov atom not found":
        with open(path, "rb") as file:
            if b"ftyp" in file.read(12):
                return "cut short or never finished: its index is missing (moov atom not found)"
        return "not a video file"
    return f"cannot be opened as a video: {last_log or error.strerror}"
