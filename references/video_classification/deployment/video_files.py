"""Clips of any video files, without folders of classes and without a scan beforehand: each is probed and read by the
worker that it falls to. A room of its own beside the datasets: prediction takes files as they come, broken ones too.
"""

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
from runtime.worker_pool import WorkerDied, map_in_workers
from videos.decoding import VideoError
from videos.folder import VIDEO_ENDINGS
from videos.frame_selection import VideoTiming
from videos.index import Scan
from videos.motion import motion_from_curve

VIDEOS_AHEAD = 8  # read while the network is busy


def find_videos(names: Iterable[str]) -> list[str]:
    """The files that `names` (files, folders with all that lies below, patterns) stand for, each once.

    A file's ending does not matter, in a folder it does. What does not exist, and a folder without a video, is kept:
    reading it will say so.
    """
    found: dict[str, None] = {}
    for name in names:
        for path in _matches(name):
            found.update(dict.fromkeys(_videos_below(path) or [path]))
    return list(found)


class VideoFiles:
    """Takes the place of a `VideoFolder` where files have no class."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths, self.root = list(paths), Path()
        self.labels = np.zeros(len(self._paths), np.int64)

    def __len__(self) -> int:
        return len(self._paths)

    def path(self, video: int) -> str:
        """Where the file lies."""
        return self._paths[video]


class ProbedTiming:
    """A video's VideoTiming, probed when it is asked for."""

    def __init__(self, files: VideoFiles, with_motion: bool) -> None:
        self._files, self._scan = files, Scan(with_motion)
        self._last: tuple[int, VideoTiming] | None = None  # all clips of a video are read in a row

    def __call__(self, video: int) -> VideoTiming:
        """Raises VideoError."""
        if self._last is None or self._last[0] != video:
            path = self._files.path(video)
            if os.path.isdir(path):
                raise VideoError(path, f"holds no video: none of its files ends in {', '.join(VIDEO_ENDINGS)}")
            result = self._scan(path)
            if isinstance(result, str):
                raise VideoError(path, result)
            info, curve = result
            motion = motion_from_curve(curve) if len(curve) or info.frames == 1 else None
            self._last = video, VideoTiming(info.frames, info.fps, motion)
        return self._last[1]


def read_clips(
    paths: Sequence[str], preprocessing: Preprocessing, clips_per_video: int, num_workers: int
) -> Iterator[np.ndarray | VideoError]:
    """Yields each video's clips, as validation sees them: float32 (clips_per_video, T, H, W, C) in [0, 1], or why not.

    Args:
        paths: of the videos.
        preprocessing: how clips are made of them.
        clips_per_video: clips of each.
        num_workers: processes; 0 reads here, where a file that crashes its decoder ends the program.
    """
    files = VideoFiles(paths)
    dataset = ClipDataset(
        files,
        ProbedTiming(files, with_motion=preprocessing.frame_selection == "motion"),
        DecodingReader(files, preprocessing),
        preprocessing,
        clips_per_video,
    )
    results = map_in_workers(
        _ReadVideo(dataset), range(len(files)), min(num_workers, len(files)), on_death=partial(_death, files)
    )
    return run_ahead(results, VIDEOS_AHEAD)


class _ReadVideo:
    """Reads all clips of a video, in a worker process."""

    def __init__(self, dataset: ClipDataset) -> None:
        self._dataset = dataset

    def __call__(self, video: int) -> np.ndarray | VideoError:
        clips = np.empty((self._dataset.clips_per_video, *self._dataset.clip_shape), self._dataset.reader.dtype)
        try:
            for number, clip in enumerate(clips):
                self._dataset.read_into(clip, Sample(video, number))
        except VideoError as error:
            return error
        return clips


def _death(files: VideoFiles, death: WorkerDied) -> VideoError:
    return VideoError(files.path(death.item), f"decoding it ended the worker process, {death.how}")


def _matches(name: str) -> list[str]:
    """What a pattern matches; `name` itself where it is none, or matches nothing."""
    if os.path.exists(name) or not glob.has_magic(name):
        return [name]
    return sorted(glob.glob(name, recursive=True)) or [name]


def _videos_below(root: str) -> list[str]:
    """All videos in a folder and its folders, linked ones too, sorted; none in a file."""
    paths, seen = [], set()
    for folder, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real not in seen:
            videos = [name for name in names if name.lower().endswith(VIDEO_ENDINGS) and not name.startswith(".")]
            paths += [os.path.join(folder, name) for name in videos]
        seen.add(real)
    return sorted(paths)
