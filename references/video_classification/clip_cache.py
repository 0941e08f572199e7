"""Decoded strips on disk, memory-mapped: each video is decoded once, and training then reads crops out of the map.

A video's entry holds the frames that its selectors can ask for - the official strip, and candidates at
`candidate_rate` where one is given - as uint8 at the resize size (the official pixels, rounded), with the video's
frame count, rate and motion curve. Entries are keyed by the file's name, size and modification time; the folder of the
shards by everything else that the pixels depend on.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import numpy as np
import torch
from decoding import MotionMeter, VideoError, iter_frames, probe_video, to_rgb
from errors import UserError
from frame_selection import official_strip
from progress import Progress
from resizing import Region, resize_crop, to_uint8
from shards import Shard, ShardWriter, note_verified, open_shards
from tables import Ragged
from torchvision.io import ImageReadMode, decode_jpeg, encode_jpeg
from video_index import Files, VideoIndex
from worker_pool import WorkerDied, map_in_workers

FORMAT_VERSION = 1
SHARD_BYTES = 256 << 20
SHARD_VIDEOS = 4096
SHARD_SECONDS = 60.0  # a shard is published at least this often: what a kill can cost
JPEG_QUALITY = 95
JPEG_SHARE = 0.1  # of the raw size, roughly; for the advice when space is short
SPACE_SAMPLE = 200  # videos probed to estimate the space that all need


class CacheError(UserError):
    """The cache cannot be built or used as asked; the message says what to do."""


@dataclass(frozen=True)
class CacheSettings:
    """Everything but the file itself that an entry depends on.

    size: height and width of the stored frames. candidate_rate: frames a second kept beside the official strip, for
    selectors that look beyond it. encoding: raw or jpeg.
    """

    size: tuple[int, int]
    clip_len: int
    frame_rate: float
    candidate_rate: float | None = None
    encoding: str = "raw"

    def folder(self, cache_dir: Path, root: Path) -> Path:
        """Where the shards of the videos under `root` lie."""
        libraries = {name: av.library_versions[name] for name in ("libavcodec", "libswscale")}
        key = {"root": str(root.resolve()), "libraries": libraries, "version": FORMAT_VERSION, **asdict(self)}
        return cache_dir / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]

    def frames_to_keep(self, num_frames: int, fps: float) -> np.ndarray:
        """Sorted distinct frame indices: int64 (F,)."""
        strip = official_strip(num_frames, fps, self.frame_rate, self.clip_len)
        if self.candidate_rate is not None:
            strip = torch.cat([strip, official_strip(num_frames, fps, self.candidate_rate, self.clip_len)])
        return strip.unique().numpy()


@dataclass
class Entry:
    """A decoded video: blob is its frames, lengths the bytes of each."""

    blob: bytes
    lengths: np.ndarray
    frames: np.ndarray
    num_frames: int
    fps: float
    motion: np.ndarray


@dataclass(frozen=True)
class DecodeStrip:
    """Decodes one file, by its path, into an entry; or says why it cannot be read."""

    settings: CacheSettings

    def __call__(self, path: str) -> Entry | str:
        try:
            info = probe_video(path)
            entry = self._decode(path, info.frames, info.fps)
            if entry.num_frames != info.frames:  # the packets miscounted: choose again from the true count
                entry = self._decode(path, entry.num_frames, info.fps)
        except VideoError as error:
            return error.reason
        return entry

    def _decode(self, path: str, num_frames: int, fps: float) -> Entry:
        keep = self.settings.frames_to_keep(num_frames, fps)
        wanted, meter, blobs, count = set(keep.tolist()), MotionMeter(), [], 0
        for count, frame in enumerate(iter_frames(path), 1):
            meter.add(frame)
            if count - 1 in wanted:
                pixels = to_uint8(resize_crop(to_rgb(frame), self.settings.size))
                blobs.append(ENCODERS[self.settings.encoding](pixels))
        if not count:
            raise VideoError(path, "holds no frame that decodes")
        lengths = np.array([len(blob) for blob in blobs], np.int64)
        return Entry(b"".join(blobs), lengths, keep, count, fps, meter.curve())


class ClipCache:
    """The entries of `files`, one row a video, as the shards on disk hold them.

    Attributes:
        index: frame counts, rates and motion curves; no frames where a video is missing.
        missing: videos without an entry, int64.
    """

    dtype = np.uint8
    is_fast = True

    def __init__(self, files: Files, settings: CacheSettings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self._files = files
        self.reload()

    def reload(self) -> None:
        """Reads the shards again, after they were added to."""
        self._shards, self._damaged = open_shards(self.folder)
        count = len(self._files)
        self._shard = np.full(count, -1, np.int32)
        self._row = np.zeros(count, np.int64)
        row_of = {name: video for video, name in enumerate(self._files.names.strings())}
        for number, shard in enumerate(self._shards):
            videos = np.array([row_of.get(name, -1) for name in shard.columns["names"].strings()], np.int64)
            same = videos >= 0
            same[same] = shard.columns["sizes"][same] == self._files.sizes[videos[same]]
            same[same] = shard.columns["mtimes_ns"][same] == self._files.mtimes_ns[videos[same]]
            self._shard[videos[same]] = number
            self._row[videos[same]] = np.flatnonzero(same)
        self.missing = np.flatnonzero(self._shard < 0)
        self._gather_columns()

    def _gather_columns(self) -> None:
        """Puts the shards' columns into one table in the order of the videos."""
        names = ("num_frames", "fps", "motion", "frames", "frame_bytes")
        columns = {name: [shard.columns[name] for shard in self._shards] for name in names}
        none = Ragged.of([[]], np.uint8), Ragged.of([[]], np.int32)  # the last row, for videos that are missing
        starts = np.cumsum([0, *map(len, self._shards)])
        rows = np.where(self._shard < 0, starts[-1], starts[self._shard] + self._row)
        num_frames = np.concatenate([*columns["num_frames"], [0]])[rows].astype(np.int64)
        fps = np.concatenate([*columns["fps"], [0.0]])[rows]
        motion = Ragged.concatenate([*columns["motion"], none[0]]).take(rows)
        self.index = VideoIndex(num_frames, fps, motion, {})
        self._frames = Ragged.concatenate([*columns["frames"], none[1]]).take(rows)
        self._frame_bytes = Ragged.concatenate([*columns["frame_bytes"], none[1]]).take(rows)

    def read_into(self, clip: np.ndarray, video: int, indices: np.ndarray, region: Region) -> None:
        """Writes the crop of the frames at `indices` to `clip`, uint8 (T, H, W, C). Raises CacheError."""
        kept = self._frames[video]
        positions = np.searchsorted(kept, indices)
        if positions[-1] >= len(kept) or (kept[positions] != indices).any():
            raise CacheError(f"{self._files.path(video)}: the cache does not hold frames {indices.tolist()}")
        blob = self._shards[self._shard[video]].blob(int(self._row[video]))
        READERS[self.settings.encoding](self, clip, video, blob, positions, region)

    def _read_raw(self, clip: np.ndarray, video: int, blob: np.ndarray, positions: np.ndarray, region: Region) -> None:
        top, left, height, width = region
        strip = blob.reshape(-1, *self.settings.size, 3)[:, top : top + height, left : left + width]
        first, last = int(positions[0]), int(positions[-1])
        if last - first == len(positions) - 1 and (np.diff(positions) == 1).all():
            clip[:] = strip[first : last + 1]  # the official clip: one copy of one slice
        else:
            for target, position in enumerate(positions.tolist()):
                clip[target] = strip[position]

    def _read_jpeg(self, clip: np.ndarray, video: int, blob: np.ndarray, positions: np.ndarray, region: Region) -> None:
        top, left, height, width = region
        ends = np.cumsum(self._frame_bytes[video])
        for target, position in enumerate(positions.tolist()):
            start = ends[position - 1] if position else 0
            frame = decode_jpeg(torch.from_numpy(blob[start : ends[position]].copy()), ImageReadMode.RGB)  # (C, H, W)
            clip[target] = frame[:, top : top + height, left : left + width].permute(1, 2, 0).numpy()

    def build(self, videos: np.ndarray, num_workers: int, quiet: bool = False) -> dict[int, str]:
        """Decodes `videos` into new shards. Call `reload` after it.

        Returns:
            Why videos could not be read, by video.

        Raises:
            CacheError: no space, or the folder cannot be written.
        """
        unreadable: dict[int, str] = {}
        paths = map(self._files.path, videos.tolist())
        results = map_in_workers(DecodeStrip(self.settings), paths, num_workers, on_death=_death_reason)
        total_bytes = 0
        try:
            with Progress("Caching clips", len(videos), "video", quiet) as progress, _Shards(self.folder) as shards:
                for video, result in zip(videos.tolist(), results, strict=True):
                    if isinstance(result, str):
                        unreadable[video] = result
                    else:
                        total_bytes += len(result.blob)
                        shards.add(self._files, video, result)
                    progress.update(note=f"{total_bytes / 1e6:.0f} MB")
        except OSError as error:
            raise CacheError(f"the clip cache cannot be written in {self.folder}: {error.strerror}") from error
        return unreadable

    def check_space(self, videos: np.ndarray) -> None:
        """Raises CacheError where the disk has not the space that `videos` will need, by probing some of them."""
        sample = videos[np.linspace(0, len(videos) - 1, min(len(videos), SPACE_SAMPLE)).astype(np.int64)]
        frames = []
        for path in map(self._files.path, sample.tolist()):
            with contextlib.suppress(VideoError):
                info = probe_video(path)
                frames.append(len(self.settings.frames_to_keep(info.frames, info.fps)))
        raw = int(np.mean(frames or [0]) * len(videos)) * 3 * self.settings.size[0] * self.settings.size[1]
        needed = raw if self.settings.encoding == "raw" else int(raw * JPEG_SHARE)
        self.folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            advice = f"; --cache-format jpeg would need about {_gigabytes(raw * JPEG_SHARE)}" if needed == raw else ""
            raise CacheError(
                f"the clip cache needs about {_gigabytes(needed)} in {self.folder.parent}, where {_gigabytes(free)} "
                f"are free: free some, or name another disk with --cache-dir{advice}"
            )

    def prune(self) -> None:
        """Takes away damaged shards, and those of which no video is left as it was."""
        used = set(self._shard.tolist())
        gone = [shard.path for number, shard in enumerate(self._shards) if number not in used]
        damaged = [Path(str(error).split(" ", 1)[0].rstrip(":")) for error in self._damaged]
        for path in [*gone, *damaged]:
            path.unlink(missing_ok=True)

    @property
    def damage(self) -> list[str]:
        """What is wrong with the shards that were left out."""
        return [str(error) for error in self._damaged]


ENCODERS = {
    "raw": lambda pixels: pixels.tobytes(),
    "jpeg": lambda pixels: encode_jpeg(torch.from_numpy(pixels).permute(2, 0, 1), JPEG_QUALITY).numpy().tobytes(),
}
READERS = {"raw": ClipCache._read_raw, "jpeg": ClipCache._read_jpeg}


class _Shards:
    """Adds entries to a shard and publishes it when it is large or old enough; what was added is published at the end.

    After an error only the shard in work is lost.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: ShardWriter | None = None

    def __enter__(self) -> "_Shards":
        return self

    def add(self, files: Files, video: int, entry: Entry) -> None:
        if self._writer is None:
            self._writer, self._start = ShardWriter(self._folder), time.monotonic()
            self._rows: list[tuple] = []
        self._writer.add(entry.blob)
        self._rows.append((files.names.string(video), files.sizes[video], files.mtimes_ns[video], entry))
        entry.blob = b""
        is_old = time.monotonic() - self._start > SHARD_SECONDS
        if self._writer.size_bytes > SHARD_BYTES or len(self._writer) >= SHARD_VIDEOS or is_old:
            self._publish()

    def _publish(self) -> None:
        names, sizes, mtimes_ns, entries = zip(*self._rows, strict=True)
        shard = self._writer.publish(
            {
                "names": Ragged.of_strings(names),
                "sizes": np.array(sizes, np.int64),
                "mtimes_ns": np.array(mtimes_ns, np.int64),
                "num_frames": np.array([entry.num_frames for entry in entries], np.int64),
                "fps": np.array([entry.fps for entry in entries], np.float64),
                "motion": Ragged.of([entry.motion for entry in entries], np.uint8),
                "frames": Ragged.of([entry.frames for entry in entries], np.int32),
                "frame_bytes": Ragged.of([entry.lengths for entry in entries], np.int32),
            }
        )
        note_verified(self._folder, [shard])
        self._writer = None

    def __exit__(self, exception_type: type | None, *_: object) -> None:
        if self._writer is None:
            return
        try:
            # Ctrl-C or a failed worker: what was decoded is kept. A failed write: the rest cannot be written either.
            if exception_type is None or not issubclass(exception_type, OSError):
                self._publish()
        finally:
            if self._writer is not None:
                self._writer.discard()


@contextlib.contextmanager
def build_lock(folder: Path) -> Iterator[None]:
    """Held while building, so that a second run waits and then finds the work done instead of doing it twice."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        try:
            import fcntl
        except ImportError:  # not POSIX: two runs would both build, which costs time only
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print(f"Another run is building {folder}: waiting for it", flush=True)
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def remove_leftovers(folder: Path) -> None:
    """Takes away what killed runs left unfinished; call with the lock held."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _death_reason(death: WorkerDied) -> str:
    return f"decoding it ended the process, {death.how}"


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB"


__all__ = ["CacheError", "CacheSettings", "ClipCache", "Shard", "build_lock", "remove_leftovers"]
