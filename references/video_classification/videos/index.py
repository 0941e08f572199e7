"""Scans every file for its frame count, rate and motion curve, and keeps the result on disk: each is scanned once."""

import contextlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from runtime.columns import Ragged, pack_columns, unpack_columns
from runtime.errors import reason_of
from runtime.files import replaced_file
from runtime.progress import Progress
from runtime.worker_pool import WorkerDied, map_in_workers
from videos.decoding import VideoError, VideoInfo, open_whole, probe_video
from videos.frame_selection import VideoTiming
from videos.motion import MotionMeter, motion_from_curve

SAVE_EVERY = 20_000  # videos; about a minute's work on 16 cores, the most that a kill can cost
READ_BYTES = 1 << 20  # at once
MAX_SECONDS = 1 << 18  # three days: the strip of a longer video may be of more frames than float32 can count


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

    def timing(self, video: int, with_motion: bool = True) -> VideoTiming:
        """What frame selection may know about a video; its motion takes longest to look up, and can be left out."""
        curve = self.motion[video] if with_motion else None
        motion = None if curve is None or not len(curve) else motion_from_curve(curve)
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
    curves: dict[int, np.ndarray] = {}
    lasting = dict(index.reasons)
    unsaved = 0

    def save() -> None:
        nonlocal curves, unsaved
        rows = [curves.get(i, index.motion[i]) for i in range(len(files))]
        index.motion, curves, unsaved = Ragged.of(rows, np.uint8), {}, 0
        _save(store, files, replace(index, reasons=lasting), with_motion)

    scan, paths = Scan(with_motion), map(files.path, missing.tolist())
    results = map_in_workers(scan, paths, num_workers, on_death=unreadable_by_death)
    try:
        with contextlib.closing(results), Progress("Scanning videos", len(missing), "video", quiet) as progress:
            for video, result in zip(missing.tolist(), results, strict=True):
                if isinstance(result, Unreadable):
                    index.reasons[video] = result.reason
                    if result.is_lasting:
                        lasting[video] = result.reason
                else:
                    info, curves[video] = result
                    index.num_frames[video], index.fps[video] = info.frames, info.fps
                    index.upright[video] = info.is_upright
                progress.update()
                unsaved += 1
                if unsaved == SAVE_EVERY:
                    save()
    finally:  # a stop or an error too keeps what was scanned
        if unsaved:
            save()
    return index


class Unreadable(NamedTuple):
    """A video that cannot be read."""

    reason: str
    is_lasting: bool  # until the file changes; else the next run tries again


def unreadable(error: VideoError) -> Unreadable:
    """What to remember of a failure to read a video: that it lasts only if all bytes of the file can be had."""
    return Unreadable(error.reason, error.is_lasting and _reads_to_its_end(error.path))


def _reads_to_its_end(path: str) -> bool:
    """Whether the system gives all of a file: to FFmpeg a failing disk may look like the end of the data."""
    try:
        with open(path, "rb", buffering=0) as file:
            while file.read(READ_BYTES):
                pass
    except (OSError, ValueError):
        return False
    return True


def unreadable_by_death(death: WorkerDied) -> Unreadable:
    """Of the file on which a worker died: the decoder may have crashed, or the memory run out."""
    return Unreadable(f"reading it ended the process, {death.how}", is_lasting=False)


@dataclass(frozen=True)
class Scan:
    """Probes one file by its path: (VideoInfo, motion curve), or why it cannot be read."""

    with_motion: bool

    def __call__(self, path: str) -> tuple[VideoInfo, np.ndarray] | Unreadable:
        meter = MotionMeter()
        try:
            if not self.with_motion:
                info = probe_video(path)
            else:
                with open_whole(path) as video:
                    for _, frame in video.frames():
                        meter.add(frame)
                    info = video.info()
        except VideoError as error:
            return unreadable(error)
        if not info.frames / MAX_SECONDS < info.fps < math.inf:  # as from a duration that is negative, or of years
            return Unreadable(f"tells a frame rate of {info.fps:g} a second, which cannot be", is_lasting=True)
        return info, meter.curve()


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
    # Indices of earlier versions have `reasons`, some of which may have passed: those videos are looked at again.
    noted = json.loads(columns["unreadable"].tobytes()) if "unreadable" in columns else {}
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
        "unreadable": np.frombuffer(json.dumps(index.reasons).encode(), np.uint8),
        "with_motion": np.array(with_motion),
    }
    try:
        with replaced_file(store) as file:
            file.write(pack_columns(columns))
    except OSError as error:
        print(f"The index cannot be kept in {store} ({reason_of(error)}): the next run scans again", flush=True)
