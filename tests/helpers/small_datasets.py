"""Folders of small videos, and flags of `train.py` that suit them."""

from pathlib import Path

import numpy as np

from helpers.numbered_videos import write_video

# Small enough that an epoch takes seconds on a CPU; mc3_18 has the fewest parameters to compute and to save.
SMALL = [
    *("--model", "mc3_18"),
    *("--device", "cpu", "--clip-len", "4", "--batch-size", "4", "--workers", "2", "--print-freq", "100"),
    *("--train-resize-size", "32", "40", "--train-crop-size", "28", "28"),
    *("--val-resize-size", "32", "40", "--val-crop-size", "28", "28"),
]


def write_moving_bar(path: Path, seed: int, num_frames: int = 20) -> Path:
    """A bar that moves over noise: small, and different for each seed."""
    generator = np.random.default_rng(seed)
    frames = generator.integers(0, 60, (num_frames, 48, 64, 3), dtype=np.uint8)
    for i in range(num_frames):
        frames[i, :, (seed * 7 + 2 * i) % 60 : (seed * 7 + 2 * i) % 60 + 4] = 50 + 20 * (seed % 10)
    return write_video(path, frames)


def make_dataset(root: Path, classes: list[str], num_train: int = 3, num_val: int = 2) -> Path:
    """A folder of `num_train` and `num_val` small videos a class."""
    for label, name in enumerate(classes):
        for split, count in (("train", num_train), ("val", num_val)):
            for i in range(count):
                write_moving_bar(root / split / name / f"{i:08d}.mp4", seed=100 * label + 10 * i + (split == "val"))
    return root
