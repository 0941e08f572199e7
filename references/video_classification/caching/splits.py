"""Opens a split: its index or clip cache, built first if it must be, and the loader over its clips."""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from caching.cache_building import complete_cache
from caching.clip_cache import CacheSettings, ClipCache
from clips import presets
from clips.dataset import Augmentation, ClipDataset, ClipReader, DecodingReader, JoinedReader
from clips.loading import ClipLoader
from clips.preprocessing import Preprocessing
from clips.samplers import Sample, training_samples
from clips.strong_augmentation import StrongClipDataset
from runtime.distributed import folder_sharers, gather_objects, is_main, print_main, rank, world_size
from videos.folder import DatasetError, JoinedFolders, VideoFolder
from videos.frame_selection import VideoTiming
from videos.index import VideoIndex, scan_videos


class UnreadableVideos(DatasetError):
    """Files under `root` that cannot be read. Attribute: `listing`, lines that name all of them."""

    def __init__(self, listing: str, root: Path) -> None:
        super().__init__(
            f"{listing}\nRun check_videos.py --root {root} --quarantine DIR to repair or move them, "
            "or go on without them by --skip-unreadable"
        )
        self.listing = listing


@dataclass(frozen=True)
class ClipOptions:
    """How clips are made of a folder's videos, and read."""

    preprocessing: Preprocessing
    cache_dir: Path  # of indices and caches
    batch_size: int
    num_workers: int
    clips_per_video: int = 1
    cached: bool = False  # whether to go through the clip cache
    cache_format: str = "raw"  # one of CACHE_FORMATS
    skip_unreadable: bool = False
    batches_per_step: int = 1  # whose gradients make a step
    pin_memory: bool = False
    random: bool = False  # draw clips, as training does
    start_prob: float = 0.5  # of the official start, where clips are drawn
    seed: int = 0
    balanced: bool = False  # whether training sees all classes equally often
    strong: bool = False  # whether to augment by `strong_augmentation`
    # int64 (num_classes,), each class's mirror image, from a flip map: classes that have one may be mirrored too.
    mirrors: Tensor | None = None


@dataclass(frozen=True)
class Clips:
    """A split, ready to read."""

    loader: ClipLoader
    videos: Tensor  # int64 (V,), the rows that can be read
    skipped: int  # how many cannot
    pixels: str  # which path they take, in words
    options: ClipOptions
    turned: int = 0  # how many of `videos` are turned or mirrored for display, which the evaluator would not do
    built: int = 0  # how many were decoded into the clip cache when it was opened
    seen: bool = False  # whether the network that is validated on them was trained on them

    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch of training."""
        return -(-len(self.videos) * self.options.clips_per_video // self.clips_per_step())

    def epoch_samples(self, seed: int, epoch: int, seen: int = 0) -> list[Sample]:
        """What this process trains on in an epoch, after its first `seen` clips: see `training_samples`."""
        labels = torch.from_numpy(self.loader.dataset.folder.labels)[self.videos]
        balance = labels if self.options.balanced else None
        per_video = self.options.clips_per_video
        return training_samples(self.videos, per_video, seed, epoch, rank(), world_size(), seen, balance)

    def videos_digest(self) -> str:
        """Tells these videos from others, by their names and sizes."""
        folder, videos = self.loader.dataset.folder, self.videos.numpy()
        names = folder.names.take(videos)
        return _digest(names.flat, names.offsets, folder.sizes[videos])

    def order_digest(self) -> str:
        """Tells the order of an epoch from others: by the videos, and by what it is drawn by."""
        options = self.options
        return f"{self.videos_digest()} {options.seed} {options.clips_per_video} {options.balanced}"

    def clips_per_step(self) -> int:
        """Clips in a step of all processes together."""
        return self.options.batch_size * self.options.batches_per_step * world_size()


class DifferentVideos(DatasetError):
    """The processes do not see the same videos under `root`; `seen` tells what each sees."""

    def __init__(self, root: Path, seen: Sequence[str]) -> None:
        told = "; ".join(f"rank {rank}: {each}" for rank, each in enumerate(seen))
        super().__init__(
            f"the processes do not see the same videos in {root} ({told}): every machine needs the same files, and "
            "nothing may write to them meanwhile"
        )


def open_clips(folder: VideoFolder, options: ClipOptions) -> Clips:
    """Scans or caches every video of `folder`. Raises the errors of `open_splits`."""
    return open_splits([(folder, options)])[0]


def open_splits(splits: Sequence[tuple[VideoFolder, ClipOptions]]) -> list[Clips]:
    """Opens all splits of a run together: every fault is found at once, and all selections see the same videos.

    Raises:
        UnreadableVideos: files of any split cannot be read, and may not be skipped.
        DifferentVideos: the processes do not see the same.
        DatasetError: no file of a split can be read.
        CacheError: a cache cannot be built, or there is too little space for all.
    """
    # Some files fail only when all of them is decoded, as the motion selection does.
    metered = {folder.root for folder, options in splits if options.preprocessing.frame_selection == "motion"}
    for folder in {id(folder): folder for folder, _ in splits}.values():
        _check_same_files(folder)
    opened, listings = [], {}
    for (folder, options), (cache, built) in zip(splits, _complete_caches(splits), strict=True):
        reader: ClipReader
        if cache is not None:
            reader, index, pixels = cache, cache.index, f"clip cache, uint8 ({cache.settings.encoding})"
            if folder.root in metered:
                index = _with_motion(index, folder, options)
        else:
            reader = DecodingReader(folder, options.preprocessing)
            index, pixels = _scan(folder, options, folder.root in metered), "decoded, float"
        _agree(folder, index)
        try:
            _report_unreadable(folder, index, options.skip_unreadable)
        except UnreadableVideos as error:
            listings[folder.root] = error.listing
        else:
            opened.append(replace(_clips(folder, options, reader, index, pixels), built=built))
    if listings:
        raise UnreadableVideos("\n".join(listings.values()), splits[0][0].root.parent)
    return opened


def _clips(folder: VideoFolder, options: ClipOptions, reader: ClipReader, index: VideoIndex, pixels: str) -> Clips:
    """The loader over the videos that can be read. Raises DatasetError if there are none."""
    videos = torch.from_numpy(index.num_frames > 0).nonzero()[:, 0]
    if not len(videos):
        raise DatasetError(f"{folder.root}: no video can be read")
    turned = int((~index.upright[videos.numpy()]).sum())
    timing = partial(index.timing, with_motion=options.preprocessing.frame_selection == "motion")
    loader = _loader(folder, options, reader, timing)
    return Clips(loader, videos, len(folder) - len(videos), pixels, options, turned)


def _loader(
    folder: VideoFolder, options: ClipOptions, reader: ClipReader, timing: Callable[[int], VideoTiming]
) -> ClipLoader:
    augmentation = None
    if options.random:
        may_flip = _may_flip(folder.classes, options.mirrors)
        augmentation = Augmentation(options.seed, options.start_prob, may_flip)
    make = StrongClipDataset if options.strong else ClipDataset
    dataset = make(folder, timing, reader, options.preprocessing, options.clips_per_video, augmentation)
    return ClipLoader(dataset, options.batch_size, options.num_workers, options.pin_memory)


def join(parts: Sequence[Clips]) -> Clips:
    """The clips of several folders side by side, made in the same way, as those of one; their caches stay apart."""
    datasets = [part.loader.dataset for part in parts]
    counts = [len(dataset.folder) for dataset in datasets]
    reader, options = JoinedReader(datasets, counts), parts[0].options
    starts = [sum(counts[:number]) for number in range(len(counts))]
    return Clips(
        _loader(JoinedFolders([dataset.folder for dataset in datasets]), options, reader, reader.timing),
        torch.cat([part.videos + start for part, start in zip(parts, starts, strict=True)]),
        sum(part.skipped for part in parts),
        parts[0].pixels,
        options,
        sum(part.turned for part in parts),
    )


def _may_flip(classes: Sequence[str], mirrors: Tensor | None) -> Tensor:
    """Which classes' clips may be mirrored, bool (num_classes,): those whose mirror image is a known class."""
    alike = presets.flippable(classes)
    return alike if mirrors is None else alike | (mirrors != torch.arange(len(classes)))


def _check_same_files(folder: VideoFolder) -> None:
    """Raises DifferentVideos where processes list other files, before they divide them."""
    files = _digest(folder.names.flat, folder.names.offsets, folder.labels, folder.sizes)
    listed = gather_objects((files, folder.classes, len(folder)))
    if any(each != listed[0] for each in listed):
        counts = [f"{count} videos of {len(classes)} classes" for _, classes, count in listed]
        raise DifferentVideos(folder.root, counts)


def _agree(folder: VideoFolder, index: VideoIndex) -> None:
    """Leaves out of `index` what any process cannot read; every video is then readable for all, or has a reason.

    Raises:
        DifferentVideos: it is not so, or the processes hold other counts or rates.
    """
    for reasons in gather_objects(index.reasons):
        for video, reason in reasons.items():
            index.reasons.setdefault(video, reason)
    unreadable = list(index.reasons)
    index.num_frames[unreadable], index.fps[unreadable] = 0, 0
    lost = int((index.num_frames == 0).sum()) - len(unreadable)
    held = gather_objects((_digest(index.num_frames, index.fps), len(folder) - len(unreadable) - lost, lost))
    if any(each != held[0] or each[2] for each in held):
        counts = [f"{count} can be read, {lost} are neither read nor known to be unreadable" for _, count, lost in held]
        raise DifferentVideos(folder.root, counts)


def _digest(*columns: np.ndarray) -> str:
    digest = hashlib.sha256()
    for column in columns:
        digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()


def _scan(folder: VideoFolder, options: ClipOptions, with_motion: bool) -> VideoIndex:
    """The index of the videos. One of the processes that see the same --cache-dir scans, and hands it to the others."""
    name = hashlib.sha256(os.fsencode(folder.root.resolve())).hexdigest()[:16]
    sharers = folder_sharers(options.cache_dir)
    index = None
    if sharers.is_first:
        store = options.cache_dir / f"{name}.index"
        index = scan_videos(folder, store, options.num_workers, with_motion=with_motion, quiet=not is_main())
    return sharers.from_first(index)


def _with_motion(index: VideoIndex, folder: VideoFolder, options: ClipOptions) -> VideoIndex:
    """A cache's index with the motion curves, which are kept beside the caches and serve all of them."""
    moving = np.flatnonzero(index.num_frames > 1).tolist()
    if not any(gather_objects(any(not len(index.motion[video]) for video in moving))):
        return index
    scanned = _scan(folder, options, with_motion=True)
    return replace(index, motion=scanned.motion, reasons={**scanned.reasons, **index.reasons})


def _complete_caches(splits: Sequence[tuple[VideoFolder, ClipOptions]]) -> list[tuple[ClipCache | None, int]]:
    """Each split's cache, one for all that differ in selection or crop only, and how many videos it lacked.

    The cache is None for splits that are to be decoded.

    Missing entries are built, each video by one process, after checking that there is space for all.
    """
    caches: dict[Path, ClipCache] = {}
    places: list[Path | None] = []
    for folder, options in splits:
        settings = CacheSettings(options.preprocessing, options.cache_format)
        place = settings.folder(options.cache_dir, folder.root) if options.cached else None
        if place is not None and place not in caches:
            caches[place] = ClipCache(folder, settings, place)
        places.append(place)
    order = list(caches.values())
    lacked = {place: len(cache.missing) for place, cache in caches.items()}
    for number, cache in enumerate(order, 1):
        complete_cache(cache, splits[0][1].num_workers, later=order[number:])
    return [(None, 0) if place is None else (caches[place], lacked[place]) for place in places]


def _report_unreadable(folder: VideoFolder, index: VideoIndex, skip_unreadable: bool) -> None:
    """Lists the files that cannot be read; raises UnreadableVideos unless they may be skipped."""
    if not index.reasons:
        return
    lines = [f"  {folder.path(video)}: {reason}" for video, reason in sorted(index.reasons.items())]
    listing = "\n".join([f"{len(index.reasons)} of {len(folder)} videos in {folder.root} cannot be read:", *lines])
    if not skip_unreadable:
        raise UnreadableVideos(listing, folder.root.parent)
    print_main(f"{listing}\nGoing on without them (--skip-unreadable)")
