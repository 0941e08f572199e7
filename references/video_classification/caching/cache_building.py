"""Fills the clip cache: decodes the videos that it lacks, each in one process, and publishes them shard by shard.

A run that is killed leaves whole shards and a temporary file; the next run continues from there.
"""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from caching.building import building, cache_errors, check_space, gigabytes, on_main
from caching.clip_cache import CacheSettings, ClipCache, write_unreadable
from caching.jpeg import encode_jpeg
from caching.shards import CacheError, ShardWriter
from runtime.columns import Ragged
from runtime.distributed import gather_objects, is_main, rank, world_size
from runtime.files import replaced_file
from runtime.progress import Progress
from runtime.worker_pool import WorkerDied, map_in_workers
from videos.decoding import VideoError, open_whole, to_rgb
from videos.index import Files
from videos.motion import MotionMeter
from videos.resizing import resize_crop, to_uint8

JPEG_SHARE = 0.15  # of the raw size, measured on a sample of QEVD
SPACE_SAMPLE = 16  # videos opened to estimate the space that all need, at 7 ms each

ENCODERS = {
    "raw": lambda pixels: pixels.tobytes(),
    "jpeg": lambda pixels: encode_jpeg(torch.from_numpy(pixels).permute(2, 0, 1)).numpy().tobytes(),
}


class Unreadable(NamedTuple):
    """A video that cannot be read."""

    reason: str
    is_lasting: bool  # until the file changes; else the next run tries again


@dataclass
class Entry:
    """A decoded video."""

    blob: bytes  # its kept frames, one after the other
    frame_bytes: np.ndarray  # the length of each; empty if they are raw
    frames: np.ndarray  # int64 (F,), indices of the kept frames
    num_frames: int  # of the video
    fps: float
    upright: bool  # neither turned nor mirrored for display
    motion: np.ndarray  # uint8 (M,)


@dataclass(frozen=True)
class DecodeStrip:
    """Decodes one file by its path: its entry, or why it cannot be read."""

    settings: CacheSettings

    def __call__(self, path: str) -> Entry | Unreadable:
        try:
            entry, expected = self._decode(path)
            if (entry.num_frames, entry.fps) != expected:  # the header was wrong: choose again by what decoded
                entry, _ = self._decode(path, (entry.num_frames, entry.fps))
        except VideoError as error:
            # Another time there may be more memory.
            return Unreadable(error.reason, is_lasting=not isinstance(error.__cause__, MemoryError))
        return entry

    def _decode(self, path: str, timing: tuple[int, float] | None = None) -> tuple[Entry, tuple[int, float]]:
        """The entry, and the frame count and rate that its frames were chosen by: `timing`, or the header's promise."""
        encode, meter, blobs = ENCODERS[self.settings.encoding], MotionMeter(), []
        size = self.settings.frame_size
        with open_whole(path) as video:
            timing = timing or video.promised_timing()
            keep = _frames_to_keep(self.settings, path, timing)
            wanted = set(keep.tolist())
            for number, frame in enumerate(video.frames()):
                meter.add(frame)
                if number in wanted:
                    blobs.append(encode(to_uint8(resize_crop(to_rgb(frame), size))))
            info = video.info()
        # Raw frames are all of one size: no lengths to look up.
        frame_bytes = np.array([len(blob) for blob in blobs if self.settings.encoding != "raw"], np.int32)
        blob, curve = b"".join(blobs), meter.curve()
        return Entry(blob, frame_bytes, keep, info.frames, info.fps, info.is_upright, curve), timing


def _frames_to_keep(settings: CacheSettings, path: str, timing: tuple[int, float]) -> np.ndarray:
    """`CacheSettings.frames_to_keep`. Raises VideoError if no frames can be chosen by such a count and rate."""
    try:
        return settings.frames_to_keep(*timing)
    except ValueError as error:
        raise VideoError(path, f"no frames can be chosen: {error}") from error


def complete_cache(cache: ClipCache, num_workers: int, later: Sequence[ClipCache] = ()) -> None:
    """Builds what `cache` lacks. Every process calls it, and each video is decoded by one of them.

    Args:
        cache: to complete.
        num_workers: decoding processes that each process starts.
        later: further caches on the same disk that must have space too.

    Raises:
        CacheError: there is too little space, or the folder cannot be written; raised by every process.
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
    """Decodes `videos` into new shards, which `cache.reload` reads.

    Returns:
        The videos that could not be read.

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
        entry_writer(cache.folder, cache.files) as writer,
    ):
        for video, result in zip(videos.tolist(), results, strict=True):
            if isinstance(result, Unreadable):
                unreadable[video] = result
            else:
                total_bytes += len(result.blob)
                writer.add(result.blob, (video, replace(result, blob=b"")))
            progress.update(note=f"{total_bytes / 1e6:.0f} MB")
    return unreadable


def _raw_bytes(cache: ClipCache) -> int:
    """What the missing videos take without compression, estimated by the headers of some."""
    settings, videos = cache.settings, cache.missing
    if not len(videos):
        return 0
    sample = videos[np.linspace(0, len(videos) - 1, min(len(videos), SPACE_SAMPLE)).astype(np.int64)]
    frames = []
    for path in map(cache.files.path, sample.tolist()):
        with contextlib.suppress(VideoError), open_whole(path) as video:
            frames.append(len(_frames_to_keep(settings, path, video.promised_timing())))
    height, width = settings.frame_size
    return int(np.mean(frames or [0]) * len(videos)) * 3 * height * width


def _prepare(cache: ClipCache, stack: contextlib.ExitStack, later: Sequence[ClipCache]) -> None:
    """Takes the lock, and checks that there is space for the missing videos of all caches. Raises CacheError."""
    stack.enter_context(building(cache, "clip cache", "its videos are decoded again"))
    with (
        cache_errors("clip cache", cache.folder),
        replaced_file(cache.folder / "settings.json") as file,  # for people who wonder what this folder holds
    ):
        file.write(json.dumps(cache.settings.key(cache.files.root), indent=2).encode())
    if len(cache.missing):
        raw = sum(map(_raw_bytes, [cache, *later]))
        jpeg = int(raw * JPEG_SHARE)
        is_raw = cache.settings.encoding == "raw"
        advice = f"; --cache-format jpeg would need about {gigabytes(jpeg)}" if is_raw else ""
        check_space(cache.folder, raw if is_raw else jpeg, "the clip cache needs", advice)


def entry_writer(folder: Path, files: Files) -> ShardWriter:
    """Writes entries of `files`: a row is (video, Entry without its blob)."""

    def columns(rows: list[tuple[int, Entry]]) -> dict[str, np.ndarray | Ragged]:
        videos, entries = [video for video, _ in rows], [entry for _, entry in rows]
        return {
            "names": files.names.take(np.array(videos)),
            "sizes": files.sizes[videos],
            "mtimes_ns": files.mtimes_ns[videos],
            "num_frames": np.array([entry.num_frames for entry in entries], np.int64),
            "fps": np.array([entry.fps for entry in entries], np.float64),
            "upright": np.array([entry.upright for entry in entries], bool),
            "motion": Ragged.of([entry.motion for entry in entries], np.uint8),
            "frames": Ragged.of([entry.frames for entry in entries], np.int32),
            "frame_bytes": Ragged.of([entry.frame_bytes for entry in entries], np.int32),
        }

    return ShardWriter(folder, columns)


def _unreadable_by_death(death: WorkerDied) -> Unreadable:
    """The decoder may have crashed, or the memory run out: the next run tries again."""
    return Unreadable(f"decoding it ended the process, {death.how}", is_lasting=False)
