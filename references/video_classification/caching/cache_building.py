"""Fills the clip cache: decodes the videos that it lacks, each by one process, and publishes them shard by shard.

A run that is killed leaves whole shards and a temporary file; the next one takes up from there.
"""

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from caching.clip_cache import CacheError, CacheSettings, ClipCache, write_unreadable
from caching.jpeg import encode_jpeg
from caching.shards import ShardWriter, build_lock, note_verified, remove_leftovers
from runtime.columns import Ragged
from runtime.distributed import broadcast_object, gather_objects, is_main, print_main, rank, world_size
from runtime.files import replaced_file
from runtime.progress import Progress
from runtime.worker_pool import WorkerDied, map_in_workers
from videos.decoding import VideoError, open_whole, to_rgb
from videos.index import Files
from videos.motion import MotionMeter
from videos.resizing import resize_crop, to_uint8

SHARD_BYTES = 256 << 20
SHARD_VIDEOS = 4096
SHARD_SECONDS = 60.0  # a shard is published at least this often: what a kill can cost
JPEG_SHARE = 0.15  # of the raw size, as a sample of QEVD comes to
SPACE_SAMPLE = 16  # videos opened to estimate the space that all need, at 7 ms each

ENCODERS = {
    "raw": lambda pixels: pixels.tobytes(),
    "jpeg": lambda pixels: encode_jpeg(torch.from_numpy(pixels).permute(2, 0, 1)).numpy().tobytes(),
}


class Unreadable(NamedTuple):
    """A video that cannot be read; `is_lasting` where it can be relied on until the file changes."""

    reason: str
    is_lasting: bool


@dataclass
class Entry:
    """A decoded video.

    blob: its frames, one after the other. frame_bytes: the length of each, none if they are raw. upright: whether they
    were neither turned nor mirrored.
    """

    blob: bytes
    frame_bytes: np.ndarray
    frames: np.ndarray
    num_frames: int
    fps: float
    upright: bool
    motion: np.ndarray


@dataclass(frozen=True)
class DecodeStrip:
    """Decodes one file, by its path, into an entry; or says why it cannot be read."""

    settings: CacheSettings

    def __call__(self, path: str) -> Entry | Unreadable:
        try:
            entry, expected = self._decode(path)
            if (entry.num_frames, entry.fps) != expected:  # the header was wrong: choose again from what decoded
                entry, _ = self._decode(path, (entry.num_frames, entry.fps))
        except VideoError as error:
            # Another time there may be more memory.
            return Unreadable(error.reason, is_lasting=not isinstance(error.__cause__, MemoryError))
        return entry

    def _decode(self, path: str, timing: tuple[int, float] | None = None) -> tuple[Entry, tuple[int, float]]:
        """The entry, and the frame count and rate by which its frames were chosen: `timing`, or what is promised."""
        encode, meter, blobs = ENCODERS[self.settings.encoding], MotionMeter(), []
        with open_whole(path) as video:
            timing = timing or video.promised_timing()
            keep = _frames_to_keep(self.settings, path, timing)
            wanted = set(keep.tolist())
            for number, frame in enumerate(video.frames()):
                meter.add(frame)
                if number in wanted:
                    blobs.append(encode(to_uint8(resize_crop(to_rgb(frame), self.settings.size))))
            info = video.info()
        # Raw frames are all of one size: nothing to look up.
        frame_bytes = np.array([len(blob) for blob in blobs if self.settings.encoding != "raw"], np.int32)
        blob, curve = b"".join(blobs), meter.curve()
        return Entry(blob, frame_bytes, keep, info.frames, info.fps, info.is_upright, curve), timing


def _frames_to_keep(settings: CacheSettings, path: str, timing: tuple[int, float]) -> np.ndarray:
    """See there. Raises VideoError where no frames can be chosen by such a count and rate."""
    try:
        return settings.frames_to_keep(*timing)
    except ValueError as error:
        raise VideoError(path, f"no frames can be chosen: {error}") from error


def complete_cache(cache: ClipCache, num_workers: int, later: Sequence[ClipCache] = ()) -> None:
    """Builds what `cache` lacks; every process calls it, and each video is decoded by one of them.

    Args:
        cache: to complete.
        num_workers: processes that decode, of each process.
        later: further caches, on the same disk, that there must be space for too.

    Raises:
        CacheError: too little space, or the folder cannot be written; on every process.
    """
    if not any(gather_objects(len(cache.missing))):
        return
    with contextlib.ExitStack() as stack:
        on_main(lambda: _prepare(cache, stack, later))
        cache.reload()
        unreadable, error = {}, None
        try:
            unreadable = build(cache, cache.missing[rank() :: world_size()], num_workers, quiet=not is_main())
        except CacheError as caught:
            error = caught
        parts = gather_objects((unreadable, error))
        if errors := [error for _, error in parts if error is not None]:
            raise errors[0]
        found = {video: why for unreadable, _ in parts for video, why in unreadable.items()}
        lasting = {video: why.reason for video, why in found.items() if why.is_lasting}
        if lasting:
            on_main(lambda: _note_unreadable(cache, lasting))
    cache.reload()
    cache.index.reasons.update({video: why.reason for video, why in found.items()})


def _note_unreadable(cache: ClipCache, reasons: dict[int, str]) -> None:
    with cache_errors("clip cache", cache.folder):
        write_unreadable(cache.folder, cache.files, {**cache.index.reasons, **reasons})


def build(cache: ClipCache, videos: np.ndarray, num_workers: int, quiet: bool = False) -> dict[int, Unreadable]:
    """Decodes `videos` into new shards, for `cache.reload` to read.

    Returns:
        Why videos could not be read, by video.

    Raises:
        CacheError: the folder cannot be written.
    """
    unreadable: dict[int, Unreadable] = {}
    paths = map(cache.files.path, videos.tolist())
    results = map_in_workers(DecodeStrip(cache.settings), paths, num_workers, on_death=_unreadable_by_death)
    total_bytes = 0
    with (
        cache_errors("clip cache", cache.folder),
        contextlib.closing(results),
        Progress("Caching clips", len(videos), "video", quiet) as progress,
        EntryWriter(cache.folder, cache.files) as writer,
    ):
        for video, result in zip(videos.tolist(), results, strict=True):
            if isinstance(result, Unreadable):
                unreadable[video] = result
            else:
                total_bytes += len(result.blob)
                writer.add(video, result)
            progress.update(note=f"{total_bytes / 1e6:.0f} MB")
    return unreadable


def check_space(caches: Sequence[ClipCache]) -> None:
    """Raises CacheError where the disk has not the space that the missing videos of all `caches` need."""
    settings, folder = caches[0].settings, caches[0].folder
    raw = sum(map(_raw_bytes, caches))
    needed = {"raw": raw, "jpeg": int(raw * JPEG_SHARE)}
    free = shutil.disk_usage(folder).free
    if needed[settings.encoding] > free:
        advice = f"; --cache-format jpeg would need about {_gigabytes(needed['jpeg'])}"
        raise CacheError(
            f"the clip cache needs about {_gigabytes(needed[settings.encoding])} in {folder.parent}, where "
            f"{_gigabytes(free)} are free: free some, or name another disk with --cache-dir"
            f"{advice if settings.encoding == 'raw' else ''}"
        )


def _raw_bytes(cache: ClipCache) -> int:
    """What the missing videos take without compression, by the headers of some."""
    settings, videos = cache.settings, cache.missing
    if not len(videos):
        return 0
    sample = videos[np.linspace(0, len(videos) - 1, min(len(videos), SPACE_SAMPLE)).astype(np.int64)]
    frames = []
    for path in map(cache.files.path, sample.tolist()):
        with contextlib.suppress(VideoError), open_whole(path) as video:
            frames.append(len(_frames_to_keep(settings, path, video.promised_timing())))
    return int(np.mean(frames or [0]) * len(videos)) * 3 * settings.size[0] * settings.size[1]


def on_main(action: Callable[[], None]) -> None:
    """Runs `action` on rank 0 while the others wait; its CacheError is raised by all."""
    error = None
    if is_main():
        try:
            action()
        except CacheError as caught:
            error = caught
    if (error := broadcast_object(error)) is not None:
        raise error


def _prepare(cache: ClipCache, stack: contextlib.ExitStack, later: Sequence[ClipCache]) -> None:
    """Takes the lock, looks again, since another run may have built it meanwhile, and clears away what is of no use."""
    with cache_errors("clip cache", cache.folder):
        stack.enter_context(build_lock(cache.folder))
        cache.reload()
        for damage in cache.damage:
            print_main(f"Clip cache: {damage}: its videos are decoded again")
        for shard in [*cache.damage, *cache.unused]:
            shard.path.unlink(missing_ok=True)
        remove_leftovers(cache.folder)
        with replaced_file(cache.folder / "settings.json") as file:  # for people who wonder what lies here
            file.write(json.dumps(cache.settings.key(cache.files.root), indent=2).encode())
    if len(cache.missing):
        check_space([cache, *later])


@contextlib.contextmanager
def cache_errors(what: str, folder: Path):
    """Raises CacheError for what the system refuses inside; `what` names the cache."""
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"the {what} is not complete, and {folder} cannot be written ({error.strerror or error}): "
            "make room or give the right to write there, or name another folder with --cache-dir"
        ) from error


class EntryWriter:
    """Adds entries to a shard and publishes it when it is large or old enough; what was added is published at the end.

    After a failed write only the shard in work is lost.
    """

    def __init__(self, folder: Path, files: Files) -> None:
        self._folder, self._files = folder, files
        self._writer: ShardWriter | None = None
        self._videos: list[int] = []
        self._entries: list[Entry] = []

    def __enter__(self) -> "EntryWriter":
        return self

    def add(self, video: int, entry: Entry) -> None:
        """Writes the entry of one of the files. Raises OSError."""
        if self._writer is None:
            self._writer, self._start = ShardWriter(self._folder), time.monotonic()
            self._videos, self._entries = [], []
        self._writer.add(entry.blob)
        self._videos.append(video)
        self._entries.append(replace(entry, blob=b""))
        is_old = time.monotonic() - self._start > SHARD_SECONDS
        if self._writer.size_bytes > SHARD_BYTES or len(self._writer) >= SHARD_VIDEOS or is_old:
            self._publish()

    def _publish(self) -> None:
        entries = self._entries
        shard = self._writer.publish(
            {
                "names": self._files.names.take(np.array(self._videos)),
                "sizes": self._files.sizes[self._videos],
                "mtimes_ns": self._files.mtimes_ns[self._videos],
                "num_frames": np.array([entry.num_frames for entry in entries], np.int64),
                "fps": np.array([entry.fps for entry in entries], np.float64),
                "upright": np.array([entry.upright for entry in entries], bool),
                "motion": Ragged.of([entry.motion for entry in entries], np.uint8),
                "frames": Ragged.of([entry.frames for entry in entries], np.int32),
                "frame_bytes": Ragged.of([entry.frame_bytes for entry in entries], np.int32),
            }
        )
        self._writer = None
        note_verified(self._folder, [shard])

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


def _unreadable_by_death(death: WorkerDied) -> Unreadable:
    """It may have been the decoder, or the memory that ran out: the next run tries again."""
    return Unreadable(f"decoding it ended the process, {death.how}", is_lasting=False)


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
