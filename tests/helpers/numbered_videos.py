"""Videos whose pixels carry their frame number, so that a test can tell which frame it was given."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

NUMBER_BITS = 12


def numbered_frame(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """A gray uint8 RGB frame (H, W, 3) with `number` written as a row of black and white bars."""
    frame = np.full((height, width, 3), 128, np.uint8)
    bar = width // NUMBER_BITS
    for bit in range(NUMBER_BITS):
        frame[: height // 2, bit * bar : (bit + 1) * bar] = 255 * (number >> bit & 1)
    return frame


def frame_number(frame: np.ndarray) -> int:
    """The number in an RGB frame (H, W, 3) that `numbered_frame` drew, also after lossy coding."""
    height, width = frame.shape[:2]
    bar = width // NUMBER_BITS
    centres = [frame[height // 4, bit * bar + bar // 2].mean() > 127 for bit in range(NUMBER_BITS)]
    return sum(int(is_set) << bit for bit, is_set in enumerate(centres))


def write_video(
    path: Path,
    frames,
    fps: Fraction | int = 30,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    pts: list[int] | None = None,
    pix_fmt: str = "yuv420p",
) -> Path:
    """Encodes RGB uint8 frames (H, W, 3). `pts` gives presentation times in units of 1 / fps (variable rate)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = None
        for index, array in enumerate(frames):
            if stream is None:
                stream = container.add_stream(codec, rate=fps, options=options or {})
                stream.height, stream.width = array.shape[:2]
                stream.pix_fmt = pix_fmt
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            frame.pts = index if pts is None else pts[index]
            frame.time_base = 1 / Fraction(fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_numbered_video(path: Path, num_frames: int, width: int = 96, height: int = 64, **kwargs) -> Path:
    """A video of `num_frames` numbered frames; further arguments as `write_video`."""
    return write_video(path, (numbered_frame(i, width, height) for i in range(num_frames)), **kwargs)
