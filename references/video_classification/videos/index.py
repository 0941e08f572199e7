"""What a scan of every file found: frame counts, rates and motion curves, and which files cannot be read. Kept on disk,
so that each file is scanned once. A room of its own between decoding and datasets: the clip cache gives the same table.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from runtime.columns import Ragged, pack_columns, unpack_columns
from runtime.files import replaced_file
from runtime.progress import Progress
from runtime.worker_pool import WorkerDied, map_in_workers
from videos.decoding import VideoError, VideoInfo, open_whole, probe_video
from videos.frame_selection import VideoTiming
from videos.motion import MotionMeter, motion_from_curve

SAVE_EVERY = 20_000  # scanned videos; about a minute's work on 16 cores, lost at most when killed


class Files(Protocol):
    """The files that a table is about: `datasets.VideoFolder`."""

    root: Path
    names: Ragged
    sizes: np.ndarray
    mtimes_ns: np.ndarray

    def __len__(self) -> int: ...

    def path(self, video: int) -> str:
        """Where the file lies."""


@dataclass
class VideoIndex:
    """One row a video.

    num_frames: int64 (N,), 0 where it cannot be read. fps: float64 (N,). upright: bool (N,), False where the stored
    picture is turned or mirrored for display. motion: a stored curve each, empty where it was not metered. reasons: why
    a video cannot be read, by row.
    """

    num_frames: np.ndarray
    fps: np.ndarray
    upright: np.ndarray
    motion: Ragged
    reasons: dict[int, str]

    def timing(self, video: int) -> VideoTiming:
        """What frame selection may know of a video."""
        curve = self.motion[video]
        motion = motion_from_curve(curve) if len(curve) else None
        return VideoTiming(int(self.num_frames[video]), float(self.fps[video]), motion)


def scan_videos(
    files: Files, store: Path, num_workers: int, with_motion: bool = False, quiet: bool = False
) -> VideoIndex:
    """The index of `files`; scans those that `store` does not hold as they are now, and keeps what it found there.

    Args:
        files: the videos.
        store: the file that keeps the index; where it cannot be written the scan is repeated by the next run.
        num_workers: processes; 0 scans here.
        with_motion: also decode each video for its motion curve.
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
                rows = (curves.get(i, index.motion[i]) for i in range(len(files)))
                index.motion, curves = Ragged.of(rows, np.uint8), {}
                _save(store, files, index, with_motion)
    return index


@dataclass(frozen=True)
class Scan:
    """Probes one file, by its path: (VideoInfo, motion curve), or the reason why it cannot be read."""

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
        if not 0 < info.fps < math.inf:  # from a duration below 0, for one
            return f"tells a frame rate of {info.fps:g} a second, which cannot be"
        return info, meter.curve()


def _death_reason(death: WorkerDied) -> str:
    return f"reading it ended the process, {death.how}"


def _load(store: Path, files: Files, with_motion: bool) -> VideoIndex:
    """What `store` holds of `files` as they are now; a row for each, empty where it holds nothing."""
    try:
        columns = unpack_columns(store.read_bytes())
        if columns["with_motion"] or not with_motion:
            return _rows_of(files, columns)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # none yet, or damaged: scan again
        pass
    count = len(files)
    motion = Ragged.of([[]] * count, np.uint8)
    return VideoIndex(np.zeros(count, np.int64), np.zeros(count), np.ones(count, bool), motion, {})


def _rows_of(files: Files, columns: dict[str, np.ndarray | Ragged]) -> VideoIndex:
    """The rows of `files` in a stored table, empty where it has none or the file has changed since."""
    count = len(files)
    stored = {name: row for row, name in enumerate(columns["names"].strings())}
    reasons = {int(row): reason for row, reason in json.loads(columns["reasons"].tobytes()).items()}
    rows = np.array([stored.get(name, -1) for name in files.names.strings()], np.int64)
    same = rows >= 0
    same[same] = (columns["sizes"][rows[same]] == files.sizes[same]) & (
        columns["mtimes_ns"][rows[same]] == files.mtimes_ns[same]
    )
    kept = rows[same]
    num_frames, fps, upright = np.zeros(count, np.int64), np.zeros(count), np.ones(count, bool)
    num_frames[same], fps[same] = columns["num_frames"][kept], columns["fps"][kept]
    upright[same] = columns["upright"][kept]
    empty = len(columns["motion"])  # one more row, for videos that the store does not know
    padded = Ragged(columns["motion"].flat, np.append(columns["motion"].offsets, columns["motion"].offsets[-1]))
    motion = padded.take(np.where(same, rows, empty))
    reasons = {i: reasons[row] for i, row in enumerate(rows.tolist()) if same[i] and row in reasons}
    return VideoIndex(num_frames, fps, upright, motion, reasons)


def _save(store: Path, files: Files, index: VideoIndex, with_motion: bool) -> None:
    columns = {
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
