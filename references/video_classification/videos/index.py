"""Scans every file for its frame count, rate and motion curve, and keeps the result on disk: each is scanned once."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from runtime.columns import Ragged, pack_columns, unpack_columns
from runtime.files import replaced_file
from runtime.progress import Progress
from runtime.worker_pool import WorkerDied, map_in_workers
from videos.decoding import VideoError, VideoInfo, open_whole, probe_video
from videos.frame_selection import VideoTiming
from videos.motion import MotionMeter, motion_from_curve

SAVE_EVERY = 20_000  # videos; about a minute's work on 16 cores, the most that a kill can cost


class Files(Protocol):
    """The files that a table describes, such as a `VideoFolder`."""

    root: Path
    names: Ragged
    sizes: np.ndarray
    mtimes_ns: np.ndarray

    def __len__(self) -> int: ...

    def path(self, video: int) -> str:
        """The path of the file."""


class RowMatcher:
    """Finds `files` in stored tables. Each name is looked up once, however many tables there are."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._row_of = {name: row for row, name in enumerate(files.names.strings())}

    def find(self, names: Iterable[str]) -> np.ndarray:
        """The row of each of `names` among the files, int64 (N,); -1 where there is no such file."""
        return np.array([self._row_of.get(name, -1) for name in names], np.int64)

    def unchanged(self, table: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Rows of a stored table whose files are still here, with the same size and modification time.

        Args:
            table: columns `names` (Ragged), `sizes` and `mtimes_ns`.

        Returns:
            int64 (M,), rows of the table; int64 (M,), rows of the same files.
        """
        files = self.find(table["names"].strings())
        same = files >= 0
        for name, now in (("sizes", self._files.sizes), ("mtimes_ns", self._files.mtimes_ns)):
            same &= np.asarray(table[name]) == now[files]
        return np.flatnonzero(same), files[same]


class Curves(Protocol):
    """A stored motion curve for each video."""

    def __getitem__(self, video: int, /) -> np.ndarray: ...


@dataclass
class VideoIndex:
    """One row per video."""

    num_frames: np.ndarray  # int64 (N,), 0 where the video cannot be read
    fps: np.ndarray  # float64 (N,)
    upright: np.ndarray  # bool (N,), False where the stored picture is turned or mirrored for display
    motion: Curves  # uint8, empty where it was not measured
    reasons: dict[int, str]  # why a video cannot be read, by row

    def timing(self, video: int) -> VideoTiming:
        """What frame selection may know about a video."""
        curve = self.motion[video]
        motion = motion_from_curve(curve) if len(curve) else None
        return VideoTiming(int(self.num_frames[video]), float(self.fps[video]), motion)


def scan_videos(
    files: Files, store: Path, num_workers: int, with_motion: bool = False, quiet: bool = False
) -> VideoIndex:
    """The index of `files`, from `store` where it knows them as they are now; the others are scanned and added to it.

    Args:
        files: the videos.
        store: the file that keeps the index; if it cannot be written, the next run scans again.
        num_workers: processes; 0 scans in this one.
        with_motion: also decode each video, for its motion curve.
        quiet: print nothing.
    """
    index = _load(store, files, with_motion)
    known = (index.num_frames > 0) | np.isin(np.arange(len(files)), list(index.reasons))
    missing = np.flatnonzero(~known)
    if not len(missing):
        return index
    curves = {}
    scan = Scan(with_motion)
    results = map_in_workers(scan, map(files.path, missing.tolist()), num_workers, on_death=_death_reason)
    with Progress("Scanning videos", len(missing), "video", quiet) as progress:
        for count, (video, result) in enumerate(zip(missing.tolist(), results, strict=True), 1):
            if isinstance(result, str):
                index.reasons[video] = result
            else:
                info, curves[video] = result
                index.num_frames[video], index.fps[video] = info.frames, info.fps
                index.upright[video] = info.is_upright
            progress.update()
            if count % SAVE_EVERY == 0 or count == len(missing):
                rows = [curves.get(i, index.motion[i]) for i in range(len(files))]
                index.motion, curves = Ragged.of(rows, np.uint8), {}
                _save(store, files, index, with_motion)
    return index


@dataclass(frozen=True)
class Scan:
    """Probes one file by its path: (VideoInfo, motion curve), or the reason why it cannot be read."""

    with_motion: bool

    def __call__(self, path: str) -> tuple[VideoInfo, np.ndarray] | str:
        meter = MotionMeter()
        try:
            info = probe_video(path)
            if self.with_motion:
                with open_whole(path) as video:
                    for frame in video.frames():
                        meter.add(frame)
        except VideoError as error:
            return error.reason
        if not 0 < info.fps < math.inf:  # as from a negative duration
            return f"tells a frame rate of {info.fps:g} a second, which cannot be"
        return info, meter.curve()


def _death_reason(death: WorkerDied) -> str:
    return f"reading it ended the process, {death.how}"


def _load(store: Path, files: Files, with_motion: bool) -> VideoIndex:
    """A row for each of `files`: as `store` knows it if it has not changed since, else empty."""
    try:
        columns = unpack_columns(store.read_bytes())
        if columns["with_motion"] or not with_motion:
            return _known_rows(files, columns)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # none yet, or damaged: scan again
        pass
    count = len(files)
    curves = Ragged.of([np.zeros(0)] * count, np.uint8)
    return VideoIndex(np.zeros(count, np.int64), np.zeros(count), np.ones(count, bool), curves, {})


def _known_rows(files: Files, columns: Mapping[str, Any]) -> VideoIndex:
    count, stored = len(files), columns["motion"]
    rows, videos = RowMatcher(files).unchanged(columns)
    num_frames, fps, upright = np.zeros(count, np.int64), np.zeros(count), np.ones(count, bool)
    num_frames[videos], fps[videos] = columns["num_frames"][rows], columns["fps"][rows]
    upright[videos] = columns["upright"][rows]
    # One more row, an empty one, for the videos that the store does not know.
    padded = Ragged(stored.flat, np.append(stored.offsets, stored.offsets[-1]))
    motion_rows = np.full(count, len(stored))
    motion_rows[videos] = rows
    noted = json.loads(columns["reasons"].tobytes())
    reasons = {
        video: noted[str(row)] for row, video in zip(rows.tolist(), videos.tolist(), strict=True) if str(row) in noted
    }
    return VideoIndex(num_frames, fps, upright, padded.take(motion_rows), reasons)


def _save(store: Path, files: Files, index: VideoIndex, with_motion: bool) -> None:
    columns: dict[str, Any] = {
        "names": files.names,
        "sizes": files.sizes,
        "mtimes_ns": files.mtimes_ns,
        "num_frames": index.num_frames,
        "fps": index.fps,
        "upright": index.upright,
        "motion": index.motion,
        "reasons": np.frombuffer(json.dumps(index.reasons).encode(), np.uint8),
        "with_motion": np.array(with_motion),
    }
    try:
        with replaced_file(store) as file:
            file.write(pack_columns(columns))
    except OSError as error:
        print(f"The index cannot be kept in {store} ({error.strerror}): the next run scans again", flush=True)
