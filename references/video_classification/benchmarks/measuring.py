"""What every benchmark needs: videos to measure on, timings side by side, memory. A room of its own, so that each
family of benchmarks can be a small module.
"""

import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clips.preprocessing import Preprocessing
from runtime.columns import Ragged
from runtime.worker_pool import map_in_workers
from synthetic.videos import generate_release
from videos.decoding import VideoError, iter_frames
from videos.folder import VIDEO_ENDINGS, DatasetError


@dataclass(frozen=True)
class BenchmarkOptions:
    """What is measured on.

    videos: the files. scratch: an empty folder, for caches and generated files. device, amp: as in train.py. workers:
    processes. rounds: how often each measurement is taken; medians count. The other fields are train.py's.
    """

    videos: "AnyVideos"
    scratch: Path
    device: str
    amp: str
    workers: int
    rounds: int
    batch_size: int
    preprocessing: Preprocessing
    steps: int


class AnyVideos:
    """Every video below `root`, however deep, as `datasets.VideoFolder` describes videos; the parent is the class.

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

    def __len__(self) -> int:
        return len(self.names)

    def path(self, video: int) -> str:
        """Where the file lies."""
        return os.path.join(self.root, self.names.string(video))

    @property
    def paths(self) -> list[str]:
        """All of them."""
        return [self.path(video) for video in range(len(self))]


def generated_videos(folder: Path) -> AnyVideos:
    """A few generated exercise videos, where there are no others to measure on."""
    generate_release(folder, ["squats", "lunges"], {"train": 4, "val": 2}, size=(240, 320), seconds=3, workers=1)
    return AnyVideos(folder)


def time_side_by_side(rounds: int, **actions: Callable[[], object]) -> dict[str, list[float]]:
    """Wall seconds of each action, `rounds` times. A round runs all, so that a busy machine slows them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds):
        # Every other round backwards: none always follows the same other.
        for name in list(actions)[:: -1 if number % 2 else 1]:
            start = time.perf_counter()
            actions[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ratio(numerators: list[float], denominators: list[float]) -> float:
    """The median over rounds of the ratios within a round."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def decode_in_workers(paths: list[str], num_workers: int) -> int:
    """How many frames the files have, by decoding them all."""
    return sum(map_in_workers(count_frames, paths, num_workers))


def count_frames(path: str) -> int:
    """Decodes a file and does nothing with it; one that cannot be read has no frames."""
    try:
        return sum(1 for _ in iter_frames(path))
    except VideoError:
        return 0


def peak_megabytes(who: int = resource.RUSAGE_SELF) -> float:
    """The most memory that this process, or with RUSAGE_CHILDREN any one of its ended children, has held."""
    status = Path("/proc/self/status")
    if who == resource.RUSAGE_SELF and status.exists():  # getrusage counts the memory of the process that started it
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(who).ru_maxrss * unit / 1e6
