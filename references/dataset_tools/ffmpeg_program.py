"""Decoding with the `ffmpeg` program: which versions work, the command, and what its output says."""

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import IO

# Versions of libavcodec, which `ffmpeg -version` prints for builds without a version number of their own as well.
OLDEST_LIBAVCODEC = (58, 54)  # FFmpeg 4.2
FIRST_WITH_FPS_MODE = (59, 37)  # FFmpeg 5.1; earlier ones call the option -vsync
# Static builds load the system's modules for character sets, and crash on transport streams; without them they do not.
ENVIRONMENT = {"GCONV_PATH": os.devnull}
CORRUPT_FRAME = "corrupt decoded frame"  # a warning, of a frame that the decoder marks as damaged
LOG_LINE = re.compile(
    r"^(?:\[(?P<source>[^\]]+?) @ \w+\] )?(?:\[[^\]]+ @ \w+\] )*"
    rf"\[(?:error|fatal|warning(?=\].*{CORRUPT_FRAME}))\] (?P<message>.*)$"
)


def require_ffmpeg() -> None:
    """Raise RuntimeError if there is no `ffmpeg` on the PATH, or one that does not run or is too old."""
    program = shutil.which("ffmpeg")
    if program is None:
        raise RuntimeError("--prober ffmpeg needs the ffmpeg program, and there is none on the PATH; install it")
    try:
        version = libavcodec_version(program)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise RuntimeError(f"--prober ffmpeg needs the ffmpeg program, and {program} does not run: {error}") from None
    if version < OLDEST_LIBAVCODEC:
        raise RuntimeError(f"--prober ffmpeg needs FFmpeg 4.2 or later, and {program} is older; update it")


@functools.cache
def libavcodec_version(program: str) -> tuple[int, int]:
    """The version (major, minor) of the libavcodec that `program` is built with.

    Raises OSError or CalledProcessError if it does not run, ValueError if it is not ffmpeg.
    """
    done = subprocess.run([program, "-version"], capture_output=True, text=True, errors="replace", check=True)
    found = re.search(r"libavcodec\s+(\d+)\.\s*(\d+)\.", done.stdout)
    if found is None:
        raise ValueError("it does not print the version of its libraries")
    return int(found[1]), int(found[2])


def decode_with_ffmpeg(path: str, index: int, log: IO[str], on_progress: Callable[[], None]) -> tuple[int, int]:
    """Decode one stream of the file at `path`.

    Args:
        path: an absolute path.
        index: of the stream.
        log: a real file, which receives the program's messages.
        on_progress: called whenever more frames are decoded.

    Returns:
        the number of frames, and the program's exit code (negative: the signal that killed it).
    """
    program = shutil.which("ffmpeg") or "ffmpeg"
    passthrough = "-fps_mode" if libavcodec_version(program) >= FIRST_WITH_FPS_MODE else "-vsync"
    command = [program, "-nostdin", "-hide_banner", "-loglevel", "repeat+level+warning", "-progress", "pipe:1"]
    command += ["-nostats", "-threads", "1", "-protocol_whitelist", "file,pipe", "-i", f"file:{path}"]
    command += ["-map", f"0:{index}", passthrough, "passthrough", "-f", "null", "-"]
    frames = 0
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=log, text=True, errors="replace", env=os.environ | ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            key, _, value = line.partition("=")
            if key == "frame" and int(value) > frames:
                frames = int(value)
                on_progress()
    return frames, process.returncode


def read_log(log: IO[str]) -> Iterator[tuple[str, str]]:
    """The errors in the program's log, and CORRUPT_FRAME, as (source, message).

    The source is a demuxer's, decoder's or muxer's name, or a part of the program as in "vist#0:0/h264", or "".
    """
    log.seek(0)
    for line in log:
        if found := LOG_LINE.match(line.rstrip("\n")):
            yield found["source"] or "", found["message"]
