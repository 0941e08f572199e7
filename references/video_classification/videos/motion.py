"""Measures how much the picture changes from frame to frame."""

import re
from functools import lru_cache

import av
import numpy as np
import torch
from torch import Tensor

from videos.pixels import stored_rgb

MOTION_SIZE = 32  # motion is measured on MOTION_SIZE x MOTION_SIZE gray samples of each frame
MAX_MOTION_VALUES = 512  # a longer video's curve is binned down to this many values


LUMA_FIRST = re.compile(r"(yuv[aj]?4\d\dp|gray|nv12|nv21|nv16)(\d*)(le)?")  # pixel formats whose first plane is luma
RGB_WEIGHTS = np.array([0.299, 0.587, 0.114])  # of luma


class MotionMeter:
    """Collects a video's motion curve while it is decoded, from point samples of each frame's brightness."""

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._changes: list[float] = []

    def add(self, frame: av.VideoFrame) -> None:
        """Adds the next frame."""
        sample = _gray_sample(frame)
        if self._last is not None:
            self._changes.append(int(np.abs(sample - self._last).sum()) / MOTION_SIZE**2)
        self._last = sample

    def curve(self) -> np.ndarray:
        """uint8 (M,), M = frames - 1 up to MAX_MOTION_VALUES; `motion_from_curve` reads it.

        It is smoothed over 5 frames, because cameras and converters repeat frames, and holds square roots relative to
        the largest value, which keeps small motion precise.
        """
        changes = np.asarray(self._changes, np.float64)
        if len(changes) > 4:
            window = np.array([1, 2, 3, 2, 1]) / 9
            changes = np.convolve(np.pad(changes, 2, mode="edge"), window, mode="valid")
        if len(changes) > MAX_MOTION_VALUES:
            changes = np.array([part.mean() for part in np.array_split(changes, MAX_MOTION_VALUES)])
        largest = changes.max(initial=0)
        return np.sqrt(changes / largest * 255**2).round().astype(np.uint8) if largest > 0 else changes.astype(np.uint8)


def motion_from_curve(curve: np.ndarray) -> Tensor:
    """The relative motion, float32 (M,), that a stored curve stands for."""
    return torch.from_numpy(np.square(curve.astype(np.float32) / 255))


def _gray_sample(frame: av.VideoFrame) -> np.ndarray:
    """int16 (MOTION_SIZE * MOTION_SIZE,) point samples of the brightness."""
    bits, luma = _luma_bits(frame.format.name), frame.planes[0]
    if not bits or luma.line_size < 0:  # rare: by way of RGB, which is the same under every PyAV
        rgb = stored_rgb(frame)
        positions = _sample_positions(frame.height, frame.width, frame.width)
        return rgb.reshape(-1, 3).take(positions, axis=0).dot(RGB_WEIGHTS).astype(np.int16)
    size = 1 if bits == 8 else 2
    positions = _sample_positions(frame.height, frame.width, luma.line_size // size)
    return (np.frombuffer(memoryview(luma), f"<u{size}").take(positions) >> (bits - 8)).astype(np.int16)


@lru_cache
def _luma_bits(pix_fmt: str) -> int:
    """How many bits a sample of the first plane has, in 1 or 2 bytes; 0 where that is not luma alone."""
    match = LUMA_FIRST.fullmatch(pix_fmt)
    return int(match[2] or 8) if match else 0


@lru_cache(maxsize=64)
def _sample_positions(height: int, width: int, line_size: int) -> np.ndarray:
    """Where in a plane the samples lie, which are the centres of MOTION_SIZE x MOTION_SIZE equal fields."""
    rows, columns = ((np.arange(MOTION_SIZE) * 2 + 1) * size // (2 * MOTION_SIZE) for size in (height, width))
    return (rows[:, None] * line_size + columns).ravel()
