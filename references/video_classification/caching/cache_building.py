"""Fills the clip cache: decodes the videos that it lacks, each in one process, and publishes them shard by shard.

A run that is killed leaves whole shards and a temporary file; the next run continues from there.
"""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from caching.building import building, cache_errors, check_space, gigabytes, on_first, raise_first
from caching.clip_cache import CacheSettings, ClipCache, write_unreadable
from caching.jpeg import encode_jpeg
from caching.shards import CacheError, ShardWriter
from runtime.columns import Ragged
from runtime.distributed import barrier, folder_sharers, gather_objects, is_main, print_main
from runtime.files import replaced_file
from runtime.progress import Progress
from runtime.worker_pool import map_in_workers
from videos.decoding import VideoError, open_whole
from videos.index import Files, Unreadable, unreadable, unreadable_by_death
from videos.pixels import to_rgb
from videos.resizing import resize_crop, to_uint8

JPEG_SHARE = 0.15  # of the raw size, measured on a sample of QEVD
SPACE_SAMPLE = 16  # videos opened to estimate the space that all need, at 7 ms each

ENCODERS = {
    "raw": lambda pixels: pixels.tobytes(),
    "jpeg": lambda pixels: encode_jpeg(torch.from_numpy(pixels).permute(2, 0, 1)).numpy().tobytes(),
}


@dataclass
class Entry:
    """A decoded video."""

    blob: bytes  # its kept frames, one after the other
    frame_bytes: np.ndarray  # the length of each; empty if they are raw
    frames: np.ndarray  # int64 (F,), indices of the kept frames
    num_frames: int  # of the video
    fps: float
    upright: bool  # neither turned nor mirrored for display


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
            return unreadable(error)
        return entry

    def _decode(self, path: str, timing: tuple[int, float] | None = None) -> tuple[Entry, tuple[int, float]]:
        """The entry, and the frame count and rate that its frames were chosen by: `timing`, or the header's promise."""
        encode, size = ENCODERS[self.settings.encoding], self.settings.frame_size
        with open_whole(path) as video:
            timing = timing or video.promised_timing()
            keep = _frames_to_keep(self.settings, path, timing)
            blobs = {
                number: encode(to_uint8(resize_crop(to_rgb(frame), size)))
                for number, frame in video.frames(set(keep.tolist()))
            }
            info = video.info()
        # Raw frames are all of one size: no lengths to look up.
        in_order = [blobs[number] for number in keep.tolist() if number in blobs]
        frame_bytes = np.array([len(blob) for blob in in_order if self.settings.encoding != "raw"], np.int32)
        blob = b"".join(in_order)
        return Entry(blob, frame_bytes, keep, info.frames, info.fps, info.is_upright), timing


def _frames_to_keep(settings: CacheSettings, path: str, timing: tuple[int, float]) -> np.ndarray:
    """`CacheSettings.frames_to_keep`. Raises VideoError if no frames can be chosen by such a count and rate."""
    try:
        return settings.frames_to_keep(*timing)
    except ValueError as error:
        raise VideoError(path, f"no frames can be chosen: {error}") from error


def complete_cache(cache: ClipCache, num_workers: int, later: Sequence[ClipCache] = ()) -> None:
    """Builds what `cache` lacks. Every process calls it, and each video is decoded by one of those that see the folder.

    Args:
        cache: to complete.
        num_workers: decoding processes that each process starts.
        later: further caches on the same disk that must have space too.

    Raises:
        CacheError: there is too little space, or the folder cannot be written; raised by every process.
    """
    if not any(gather_objects(len(cache.missing))):
        return
    sharers = folder_sharers(cache.folder)
    with contextlib.ExitStack() as stack:
        on_first(sharers, lambda: _prepare(cache, stack, later))
        cache.reload()
        own = sharers.share(cache.missing)
        barrier()  # every process has seen what is missing before any of them adds to it
        built, error = {}, None
        try:
            built = build(cache, own, num_workers, quiet=not is_main())
        except CacheError as caught:
            error = caught
        parts = gather_objects((built, error))
        raise_first([error for _, error in parts])
        found = {video: why for other in sharers.ranks for video, why in parts[other][0].items()}
        lasting = {video: why.reason for video, why in found.items() if why.is_lasting}
        on_first(sharers, lambda: _note_unreadable(cache, lasting))
    cache.reload()
    cache.index.reasons.update({video: why.reason for video, why in found.items()})


def _note_unreadable(cache: ClipCache, reasons: dict[int, str]) -> None:
    if not reasons:
        return
    with cache_errors("clip cache", cache.folder):
        write_unreadable(cache.folder, cache.files, {**cache.index.reasons, **reasons})


def build(cache: ClipCache, videos: np.ndarray, num_workers: int, quiet: bool = False) -> dict[int, Unreadable]:
    """Decodes `videos` into new shards, which `cache.reload` reads.

    Returns:
        The videos that could not be read.

    Raises:
        CacheError: the folder cannot be written.
    """
    found: dict[int, Unreadable] = {}
    paths = map(cache.files.path, videos.tolist())
    results = map_in_workers(DecodeStrip(cache.settings), paths, num_workers, on_death=unreadable_by_death)
    total_bytes = 0
    with (
        cache_errors("clip cache", cache.folder),
        contextlib.closing(results),
        Progress("Caching clips", len(videos), "video", quiet) as progress,
        entry_writer(cache.folder, cache.files) as writer,
    ):
        for video, result in zip(videos.tolist(), results, strict=True):
            if isinstance(result, Unreadable):
                found[video] = result
            else:
                total_bytes += len(result.blob)
                writer.add(result.blob, (video, replace(result, blob=b"")))
            progress.update(note=f"{total_bytes / 1e6:.0f} MB")
    return found


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
    if not len(cache.missing):
        return  # other machines have a folder that lacks some
    stack.enter_context(building(cache, "clip cache", "its videos are decoded again"))
    with (
        cache_errors("clip cache", cache.folder),
        replaced_file(cache.folder / "settings.json") as file,  # for people who wonder what this folder holds
    ):
        file.write(json.dumps(cache.settings.key(cache.files.root), indent=2).encode())
    if len(cache.missing):  # the lock was another run's, which may have built them
        own, *others = map(_raw_bytes, [cache, *later])
        raw, jpeg = own + sum(others), int((own + sum(others)) * JPEG_SHARE)
        is_raw = cache.settings.encoding == "raw"
        advice = f"; --cache-format jpeg would need about {gigabytes(jpeg)}" if is_raw else ""
        check_space(cache.folder, raw if is_raw else jpeg, "the clip cache needs", advice)
        size = gigabytes(own if is_raw else own * JPEG_SHARE)
        count = f"{len(cache.missing)} of {len(cache.files)} videos"
        print_main(f"Clip cache: {count} in {cache.files.root} to decode, about {size}")


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
            "frames": Ragged.of([entry.frames for entry in entries], np.int32),
            "frame_bytes": Ragged.of([entry.frame_bytes for entry in entries], np.int32),
        }

    return ShardWriter(folder, columns)
