"""Reads clips of any video files, without class folders or an index: the worker that reads a file also probes it."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from clips.dataset import ClipDataset, DecodingReader
from clips.loading import run_ahead
from clips.preprocessing import Preprocessing
from clips.samplers import Sample
from runtime.columns import Ragged
from runtime.files import name_of
from runtime.worker_pool import WorkerDied, map_in_workers
from videos.decoding import VideoError
from videos.folder import VIDEO_ENDINGS, VideoFolder
from videos.frame_selection import VideoTiming
from videos.index import Scan, Unreadable
from videos.motion import motion_from_curve

VIDEOS_AHEAD = 8  # read while the network computes


def find_videos(names: Iterable[str]) -> list[str]:
    """The video files that `names` (files, folders searched recursively, patterns) stand for, each once.

    The file name extension only matters in folders. Names that do not exist and folders without a video are kept, and
    reading them reports it.
    """
    found: dict[str, None] = {}
    for name in names:
        for path in _matches(name):
            found.update(dict.fromkeys(_videos_below(path) or [path]))
    return list(found)


class VideoFiles(VideoFolder):
    """Any files, which have no classes."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.root, self.classes, self.names = Path(), [], Ragged.of_strings(paths)
        self.labels = self.sizes = self.mtimes_ns = np.zeros(len(paths), np.int64)

    def path(self, video: int) -> str:
        """The path of the file."""
        return name_of(self.names.string(video))


class ProbedTiming:
    """A function from a video to its VideoTiming, which probes it."""

    def __init__(self, files: VideoFiles, with_motion: bool) -> None:
        self._files, self._scan = files, Scan(with_motion)
        self._last: tuple[int, VideoTiming] | None = None  # all clips of a video are read consecutively

    def __call__(self, video: int) -> VideoTiming:
        """Raises VideoError."""
        if self._last is None or self._last[0] != video:
            path = self._files.path(video)
            if os.path.isdir(path):
                raise VideoError(path, f"holds no video: no file name in it ends in {', '.join(VIDEO_ENDINGS)}")
            result = self._scan(path)
            if isinstance(result, Unreadable):
                raise VideoError(path, result.reason, result.is_lasting)
            info, curve = result
            motion = motion_from_curve(curve) if len(curve) or info.frames == 1 else None
            self._last = video, VideoTiming(info.frames, info.fps, motion)
        return self._last[1]


def read_clips(
    paths: Sequence[str], preprocessing: Preprocessing, clips_per_video: int, num_workers: int
) -> Iterator[np.ndarray | VideoError]:
    """Yields each video's clips as in validation, float32 (clips_per_video, T, H, W, C) in [0, 1], or why it has none.

    Args:
        paths: the videos.
        preprocessing: how clips are made of them.
        clips_per_video: clips of each.
        num_workers: processes; 0 reads in this one, which a file that crashes its decoder ends.
    """
    files = VideoFiles(paths)
    timing = ProbedTiming(files, with_motion=preprocessing.frame_selection == "motion")
    dataset = ClipDataset(files, timing, DecodingReader(files, preprocessing), preprocessing, clips_per_video)
    results = map_in_workers(
        _ReadVideo(dataset), range(len(files)), min(num_workers, len(files)), on_death=partial(_death, files)
    )
    return run_ahead(results, VIDEOS_AHEAD)


class _ReadVideo:
    """Reads all clips of a video, in a worker process."""

    def __init__(self, dataset: ClipDataset) -> None:
        self._dataset = dataset

    def __call__(self, video: int) -> np.ndarray | VideoError:
        clips: np.ndarray = np.empty(
            (self._dataset.clips_per_video, *self._dataset.clip_shape), self._dataset.reader.dtype
        )
        try:
            self._dataset.read_into(clips, [Sample(video, number) for number in range(len(clips))])
        except VideoError as error:
            return error
        return clips


def _death(files: VideoFiles, death: WorkerDied) -> VideoError:
    return VideoError(files.path(death.item), f"decoding it ended the worker process, {death.how}")


def _matches(name: str) -> list[str]:
    """What a pattern matches; `name` itself if it is no pattern or matches nothing."""
    if os.path.exists(name) or not glob.has_magic(name):
        return [name]
    return sorted(glob.glob(name, recursive=True)) or [name]


def _videos_below(root: str) -> list[str]:
    """All videos below a folder, sorted, following links; none if it is a file."""
    paths, seen = [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real not in seen:
            videos = [name for name in names if name.lower().endswith(VIDEO_ENDINGS) and not name.startswith(".")]
            paths += [os.path.join(folder, name) for name in videos]
        seen.add(real)
    return sorted(paths)
