"""What the benchmarks share: videos to measure on, clips of them, timings side by side, memory."""

import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from clips.dataset import Augmentation, ClipDataset, ClipReader
from clips.preprocessing import Preprocessing
from runtime.columns import Ragged
from runtime.worker_pool import map_in_workers
from synthetic.videos import generate_release
from videos.decoding import VideoError, iter_frames
from videos.folder import VIDEO_ENDINGS, DatasetError, VideoFolder
from videos.index import VideoIndex


@dataclass(frozen=True)
class BenchmarkOptions:
    """What is measured, and how often."""

    videos: "AnyVideos"
    scratch: Path  # an empty folder, for caches and generated files
    device: str
    amp: str  # as in train.py
    preprocessing: Preprocessing
    workers: int  # processes
    rounds: int  # measurements of each kind, of which the medians count
    batch_size: int
    steps: int  # training steps measured
    model: str = "r2plus1d_18"  # the network of step, epoch, gpu and model
    layout: str = "contiguous"  # in which training computes


class AnyVideos(VideoFolder):
    """Every video below `root`, however deep; its folder is its class.

    Args:
        root: a placed tree, a release, or any folder of videos.

    Raises:
        DatasetError: there is no video.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        found = (
            os.path.relpath(os.path.join(folder, name), root)
            for folder, _, names in os.walk(root, followlinks=True)
            for name in names
            if name.lower().endswith(VIDEO_ENDINGS)
        )
        paths = sorted(found)
        if not paths:
            raise DatasetError(f"{root} holds no videos to measure on")
        parents = [os.path.dirname(path) for path in paths]
        self.classes = sorted(set(parents))
        label_of = {name: label for label, name in enumerate(self.classes)}
        self.names = Ragged.of_strings(paths)
        self.labels = np.array([label_of[parent] for parent in parents], np.int64)
        statuses = [os.stat(os.path.join(root, path)) for path in paths]
        self.sizes = np.array([status.st_size for status in statuses], np.int64)
        self.mtimes_ns = np.array([status.st_mtime_ns for status in statuses], np.int64)

    @property
    def paths(self) -> list[str]:
        """The paths of all files."""
        return [self.path(video) for video in range(len(self))]


def generated_videos(folder: Path) -> AnyVideos:
    """A few generated exercise videos, where there are no others to measure on."""
    generate_release(folder, ["squats", "lunges"], {"train": 4, "val": 2}, size=(240, 320), seconds=3, workers=1)
    return AnyVideos(folder)


def training_dataset(options: BenchmarkOptions, reader: ClipReader, index: VideoIndex) -> ClipDataset:
    """Clips as training draws them by default."""
    may_flip = torch.ones(len(options.videos.classes), dtype=torch.bool)
    return ClipDataset(
        options.videos, index.timing, reader, options.preprocessing, augmentation=Augmentation(may_flip=may_flip)
    )


def readable_videos(index: VideoIndex) -> torch.Tensor:
    """The rows of the videos that can be read, int64."""
    return torch.from_numpy(np.flatnonzero(index.num_frames))


def seconds_of(action: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def time_side_by_side(rounds: int, **actions: Callable[[], object]) -> dict[str, list[float]]:
    """Wall seconds of each action in each round. A round runs all of them, so that a busy machine slows all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds):
        # Every other round runs backwards, so that none always follows the same other.
        for name in list(actions)[:: -1 if number % 2 else 1]:
            seconds[name].append(seconds_of(actions[name]))
    return seconds


def median_ratio(numerators: list[float], denominators: list[float]) -> float:
    """The median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def start_workers(options: BenchmarkOptions) -> None:
    """Starts the server that forks the workers, which the first measurement would otherwise include."""
    decode_in_workers(options.videos.paths[: options.workers], options.workers)


def decode_in_workers(paths: list[str], num_workers: int) -> int:
    """Decodes the files; returns the number of their frames."""
    return sum(map_in_workers(count_frames, paths, num_workers))


def count_frames(path: str) -> int:
    """Decodes a file and counts its frames; 0 if it cannot be read."""
    try:
        return sum(1 for _ in iter_frames(path))
    except VideoError:
        return 0


def peak_megabytes() -> float:
    """The most memory that this process has held."""
    status = Path("/proc/self/status")
    if not status.exists():
        import resource  # not on Windows

        return _megabytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    # getrusage would count the memory of the process that started this one.
    fields = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024 / 1e6


def children_peak_megabytes() -> float:
    """The most memory that any one of this process's ended children has held."""
    import resource  # not on Windows

    return _megabytes(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def _megabytes(max_rss: int) -> float:
    return max_rss * (1 if sys.platform == "darwin" else 1024) / 1e6
