"""Copies of videos with their predictions drawn in, by Pillow, since few FFmpeg builds have a filter for text."""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import IO

import av
import numpy as np

from deployment.prediction import Prediction
from runtime.errors import UserError, reason_of, require
from runtime.files import check_writable, printable, replaced_file
from runtime.progress import Progress
from runtime.worker_pool import map_in_workers
from videos.decoding import LENIENT_METADATA, VideoError, iter_rgb, probe_video
from videos.resizing import resize_crop, to_uint8

LINES_PER_PICTURE = 18  # lines of text that would fill the picture's height
MIN_TEXT_PIXELS = 10
COMMENT = "predictions drawn in by predict.py"  # in a copy, which a later one may replace
SLOWEST_RATE = Fraction(1, 1001)  # frames per second of a copy


@dataclass(frozen=True)
class Annotation:
    """A copy to make."""

    source: str
    destination: Path
    lines: tuple[str, ...]  # drawn at the top left


def prepare_copies(folder: Path, copies: Sequence[Path]) -> None:
    """Makes the folder of the copies.

    Raises UserError where it cannot be written to or a copy would replace another video, MissingExtra without Pillow.
    """
    for copy in copies:
        if copy.exists() and not is_copy(copy):
            raise UserError(f"--annotate {folder}: {printable(copy)} is no copy of this script: choose another folder")
    check_writable("--annotate", folder / "copy.mp4")
    require("PIL.ImageFont")
    folder.mkdir(parents=True, exist_ok=True)


def is_copy(path: Path) -> bool:
    """Whether the file is an annotated copy, by the comment in it."""
    try:
        with av.open(os.fspath(path), **LENIENT_METADATA) as container:
            return container.metadata.get("comment") == COMMENT
    except (av.FFmpegError, OSError):
        return False


def write_copies(predictions: Sequence[Prediction], copies: Sequence[Path], folder: Path, workers: int) -> int:
    """Writes the annotated copies of the videos that could be read, each whole or not at all; returns how many failed.

    Prints why they failed.

    Args:
        predictions: one per video.
        copies: one per video, from `destinations`.
        folder: of the copies; nothing else is left in it.
        workers: processes.
    """
    work = [
        Annotation(prediction.video, copy, tuple(f"{label} {100 * share:.1f} %" for label, share in prediction.top[:3]))
        for prediction, copy in zip(predictions, copies, strict=True)
        if prediction.error is None
    ]
    failed = 0
    with tempfile.TemporaryDirectory(prefix=".unfinished.", dir=folder, ignore_cleanup_errors=True) as unfinished:
        function = partial(annotate, unfinished=Path(unfinished))
        results = map_in_workers(function, work, min(workers, len(work)), on_death=lambda death: death.how)
        progress = Progress("Annotating", len(work), "video", quiet=not sys.stderr.isatty())
        with contextlib.closing(results), progress:  # no worker is left when that folder is removed
            for annotation, reason in zip(work, results, strict=True):
                progress.update()
                if reason is not None:
                    failed += 1
                    print(f"error: {printable(annotation.source)} has no copy: {reason}", file=sys.stderr)
    return failed


def annotate(annotation: Annotation, unfinished: Path) -> str | None:
    """Writes a copy: H.264 in MP4, upright, without sound, at the average rate, all frames in the size of the first.

    It is written in the folder `unfinished`, on the same file system, so that the parent can clean up after a crash.
    Returns why it failed, else None.
    """
    try:
        rate = max(Fraction(probe_video(annotation.source).fps).limit_denominator(1001), SLOWEST_RATE)
        temporary = unfinished / f"{os.getpid()}.mp4"  # each process writes one at a time
        with replaced_file(temporary) as file:
            _write(file, annotation, rate)
        annotation.destination.parent.mkdir(parents=True, exist_ok=True)
        os.replace(temporary, annotation.destination)
    except VideoError as error:
        return error.reason
    except (av.FFmpegError, OSError) as error:
        return f"{annotation.destination} cannot be written: {reason_of(error)}"
    except Exception as error:  # whatever is wrong with this video, the other copies go on
        return f"{annotation.destination} cannot be written: {type(error).__name__}: {error}"
    return None


def destinations(paths: Sequence[str], folder: Path) -> list[Path]:
    """The path of each video's copy: below `folder` as the videos lie below their common folder.

    Where `a.avi` and `a.avi.mp4` would have the same copy, that of the later one is `a.avi_2.mp4`.
    """
    absolute = [os.path.abspath(path) for path in paths]
    root = os.path.commonpath([os.path.dirname(path) for path in absolute])
    copies: dict[str, None] = {}
    for path in absolute:
        name = os.path.relpath(path, root)
        stem, ending = os.path.splitext(name) if name.lower().endswith(".mp4") else (name, ".mp4")
        copy, number = f"{stem}{ending}", 1
        while copy in copies:
            number += 1
            copy = f"{stem}_{number}{ending}"
        copies[copy] = None
    return [folder / copy for copy in copies]


def fit_text(lines: Sequence[str], height: int, width: int) -> tuple[int, list[str]]:
    """The text size in pixels for a picture of `height` x `width`, and the lines of text.

    In narrow pictures the text gets smaller, and where that is not enough, lines are broken after `_` and spaces.
    """
    font = require("PIL.ImageFont")

    def is_too_wide(text: str) -> bool:
        return font.load_default(size).getlength(text) + 2 * (size // 2) > width

    size = max(MIN_TEXT_PIXELS, height // LINES_PER_PICTURE)
    while size > MIN_TEXT_PIXELS and any(map(is_too_wide, lines)):
        size -= 1
    return size, [part for line in lines for part in _broken(line, is_too_wide)]


def _write(file: IO[bytes], annotation: Annotation, rate: Fraction) -> None:
    label = None
    with av.open(file, "w", format="mp4") as container:
        container.metadata["comment"] = COMMENT
        stream = container.add_stream("libx264", rate=rate, options={"crf": "20", "preset": "veryfast"})
        stream.pix_fmt = "yuv420p"
        for index, rgb in iter_rgb(annotation.source):
            odd = [(0, side % 2) for side in rgb.shape[:2]]
            rgb = np.pad(rgb, (*odd, (0, 0)), mode="edge")  # the encoder accepts only even sizes
            if label is None:
                stream.height, stream.width = rgb.shape[:2]
                label = _label(annotation.lines, stream.height, stream.width)
            if rgb.shape != (stream.height, stream.width, 3):
                rgb = to_uint8(resize_crop(rgb, (stream.height, stream.width)))
            rgb[: label.shape[0], : label.shape[1]] = label
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            picture.pts, picture.time_base = index, 1 / rate
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def _label(lines: Sequence[str], height: int, width: int) -> np.ndarray:
    """White text on black, uint8 (H, W, 3), no larger than the picture."""
    image, draw, font = (require(f"PIL.{name}") for name in ("Image", "ImageDraw", "ImageFont"))
    size, lines = fit_text(lines, height, width)
    margin = size // 2
    typeface, text, corner = font.load_default(size), "\n".join(lines), (margin, size // 4)
    probe = draw.Draw(image.new("RGB", (1, 1)))
    _, _, right, bottom = probe.multiline_textbbox(corner, text, font=typeface)
    shape = min(int(right) + margin, width), min(int(bottom) + margin, height)
    label = image.new("RGB", shape)
    draw.Draw(label).multiline_text(corner, text, font=typeface, fill="white")
    return np.asarray(label)


def _broken(line: str, is_too_wide: Callable[[str], bool]) -> list[str]:
    """Breaks the line into few parts that are not too wide; a number and its percent sign stay together."""
    parts = [""]
    for word in re.split(r"(?<=[_ ])(?!%)", line):
        if parts[-1] and is_too_wide((parts[-1] + word).rstrip()):
            parts.append("")
        parts[-1] += word
    return parts
