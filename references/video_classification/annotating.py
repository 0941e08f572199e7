"""Copies of videos with their predicted labels drawn in. A room of its own: the only writer of videos among the tools
for trained models. Text is drawn by Pillow, since few FFmpeg builds have a filter that writes.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from decoding import VideoError, iter_frames, probe_video, to_rgb
from extras import require
from tables import replaced_file

LINES_PER_PICTURE = 18  # how many lines of text would fill the picture's height
MIN_TEXT_PIXELS = 10


@dataclass(frozen=True)
class Annotation:
    """A copy to make: `lines` are drawn at the top left."""

    source: str
    destination: Path
    lines: tuple[str, ...]


def annotate(annotation: Annotation) -> str | None:
    """Writes the copy: H.264 in MP4, upright, without sound, at the average rate. Returns why not, else None."""
    try:
        fps = probe_video(annotation.source).fps
        with replaced_file(annotation.destination) as file:
            _write(file, annotation, Fraction(fps).limit_denominator(1001))
    except VideoError as error:
        return error.reason
    except (av.FFmpegError, OSError) as error:
        return f"{annotation.destination} cannot be written: {error.strerror or error}"
    return None


def destinations(paths: Sequence[str], folder: Path) -> list[Path]:
    """Where each video's copy goes: below `folder` as they lie below the folder that they have in common."""
    absolute = [os.path.abspath(path) for path in paths]
    root = os.path.commonpath([os.path.dirname(path) for path in absolute])
    names = [os.path.relpath(path, root) for path in absolute]
    return [folder / (name if name.lower().endswith(".mp4") else f"{name}.mp4") for name in names]


def _write(file, annotation: Annotation, rate: Fraction) -> None:
    label = None
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "20", "preset": "veryfast"})
        stream.pix_fmt = "yuv420p"
        for index, frame in enumerate(iter_frames(annotation.source)):
            rgb = to_rgb(frame)
            rgb = rgb[: rgb.shape[0] // 2 * 2, : rgb.shape[1] // 2 * 2].copy()  # the encoder takes even sizes only
            if label is None:
                stream.height, stream.width = rgb.shape[:2]
                label = _label(annotation.lines, stream.height, stream.width)
            if rgb.shape[:2] != (stream.height, stream.width):
                raise VideoError(annotation.source, "the picture's size changes between frames")
            rgb[: label.shape[0], : label.shape[1]] = label
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            picture.pts, picture.time_base = index, 1 / rate
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def _label(lines: Sequence[str], height: int, width: int) -> np.ndarray:
    """White text on black, uint8 (H, W, 3), no larger than the picture."""
    image, draw, font = (require(f"PIL.{name}") for name in ("Image", "ImageDraw", "ImageFont"))
    size = max(MIN_TEXT_PIXELS, height // LINES_PER_PICTURE)
    typeface, text = font.load_default(size), "\n".join(lines)
    probe = draw.Draw(image.new("RGB", (1, 1)))
    _, _, right, bottom = probe.multiline_textbbox((size // 2, size // 4), text, font=typeface)
    label = image.new("RGB", (min(int(right) + size // 2, width), min(int(bottom) + size // 2, height)))
    draw.Draw(label).multiline_text((size // 2, size // 4), text, font=typeface, fill="white")
    return np.asarray(label)
