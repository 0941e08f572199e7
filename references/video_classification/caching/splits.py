"""Opens one split: its folder, index or clip cache (built first if it must be), the loader over its clips. A room
of its own: both ways need the same care for files that cannot be read, and for several processes at work.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from caching.cache_building import complete_cache
from caching.clip_cache import CacheSettings, ClipCache
from clips import presets
from clips.dataset import ClipDataset, ClipReader, DecodingReader
from clips.loading import ClipLoader
from clips.samplers import Sample, training_samples
from clips.strong_augmentation import StrongClipDataset
from runtime.distributed import barrier, is_main, print_main, rank, world_size
from videos.folder import DatasetError, VideoFolder
from videos.frame_selection import FRAME_SELECTORS
from videos.index import VideoIndex, scan_videos


class UnreadableVideos(DatasetError):
    """Files under `root` that cannot be read: `listing` names all of them."""

    def __init__(self, listing: str, root: Path) -> None:
        super().__init__(
            f"{listing}\nRun check_videos.py --root {root} --quarantine DIR to repair or move them, "
            "or go on without them by --skip-unreadable"
        )
        self.listing = listing


@dataclass(frozen=True)
class ClipOptions:
    """How clips are made of a folder's videos, and read.

    resize_size, crop_size: height and width. selection: a name of FRAME_SELECTORS. random: draw as training does.
    balanced: whether training sees all classes equally often. strong: whether to augment by `strong_augmentation`.
    mirrors: int64 (num_classes,), each class's mirror image, from `flip_map`: those that have one may be flipped too.
    start_prob: of the official start, in training. candidate_rate: where given, selectors other than `official` choose
    among the frames at this many a second, and a cache keeps those. cached: whether to go through the clip cache, of
    cache_format. batches_per_step: whose gradients make a step.
    """

    clip_len: int
    frame_rate: float
    clips_per_video: int
    resize_size: tuple[int, int]
    crop_size: tuple[int, int]
    selection: str
    cache_dir: Path
    skip_unreadable: bool
    batch_size: int
    num_workers: int
    pin_memory: bool = False
    random: bool = False
    start_prob: float = 0.5
    seed: int = 0
    candidate_rate: float | None = None
    cached: bool = False
    cache_format: str = "raw"
    batches_per_step: int = 1
    balanced: bool = False
    strong: bool = False
    mirrors: Tensor | None = None

    @property
    def rule(self) -> str:
        """How frames are chosen, in words."""
        return f"{self.selection} frames, {self.clip_len} at {self.frame_rate:g} a second"


@dataclass(frozen=True)
class Clips:
    """A split, ready to read.

    videos: int64, the rows that can be read. skipped: how many cannot. pixels: which path they take, in words. turned:
    how many of `videos` are turned or mirrored for display, which the challenge's evaluator would not do.
    """

    loader: ClipLoader
    videos: Tensor
    skipped: int
    pixels: str
    options: ClipOptions
    turned: int = 0

    def steps_per_epoch(self) -> int:
        """Steps of the optimiser in an epoch of training."""
        return -(-len(self.videos) * self.options.clips_per_video // self.clips_per_step())

    def epoch_samples(self, seed: int, epoch: int, seen: int = 0) -> list[Sample]:
        """What this process trains on in an epoch of which `seen` clips are done, see `datasets.training_samples`."""
        labels = torch.from_numpy(self.loader.dataset.folder.labels)[self.videos]
        balance = labels if self.options.balanced else None
        per_video = self.options.clips_per_video
        return training_samples(self.videos, per_video, seed, epoch, rank(), world_size(), seen, balance)

    def clips_per_step(self) -> int:
        """Of all processes together."""
        return self.options.batch_size * self.options.batches_per_step * world_size()


def open_clips(folder: VideoFolder, options: ClipOptions) -> Clips:
    """Scans or caches every video of `folder`. Raises as `open_splits`."""
    return open_splits([(folder, options)])[0]


def open_splits(splits: Sequence[tuple[VideoFolder, ClipOptions]]) -> list[Clips]:
    """Opens all that a run reads at once: it finds all that is wrong, and all selections see the same videos.

    Raises:
        UnreadableVideos: files that cannot be read and may not be skipped, of all splits together.
        DatasetError: not one of a split can be read.
        CacheError: a cache cannot be built, or there is not the space for all.
    """
    # Some files fail only when the whole of them is decoded, as the motion selection does.
    metered = {folder.root for folder, options in splits if options.selection == "motion"}
    opened, listings = [], {}
    for (folder, options), cache in zip(splits, _complete_caches(splits), strict=True):
        if cache is not None:
            reader, index, pixels = cache, cache.index, f"clip cache, uint8 ({cache.settings.encoding})"
        else:
            reader = DecodingReader(folder, options.resize_size)
            index, pixels = _scan(folder, options, folder.root in metered), "decoded, float"
        try:
            _report_unreadable(folder, index, options.skip_unreadable)
        except UnreadableVideos as error:
            listings[folder.root] = error.listing
        else:
            opened.append(_clips(folder, options, reader, index, pixels))
    if listings:
        raise UnreadableVideos("\n".join(listings.values()), splits[0][0].root.parent)
    return opened


def _clips(folder: VideoFolder, options: ClipOptions, reader: ClipReader, index: VideoIndex, pixels: str) -> Clips:
    """The loader over the videos that can be read. Raises DatasetError where not one can."""
    videos = torch.from_numpy(index.num_frames > 0).nonzero()[:, 0]
    if not len(videos):
        raise DatasetError(f"{folder.root}: no video can be read")
    selector = FRAME_SELECTORS[options.selection]
    if options.selection == "official":
        selector = partial(selector, start_prob=options.start_prob)
    dataset = (StrongClipDataset if options.strong else ClipDataset)(
        folder,
        index.timing,
        reader,
        selector,
        clip_len=options.clip_len,
        frame_rate=options.frame_rate,
        clips_per_video=options.clips_per_video,
        resize_size=options.resize_size,
        crop_size=options.crop_size,
        candidate_rate=None if options.selection == "official" else options.candidate_rate,
        may_flip=_may_flip(folder.classes, options.mirrors),
        random=options.random,
        seed=options.seed,
    )
    loader = ClipLoader(dataset, options.batch_size, options.num_workers, options.pin_memory)
    turned = int((~index.upright[videos.numpy()]).sum())
    return Clips(loader, videos, len(folder) - len(videos), pixels, options, turned)


def _may_flip(classes: Sequence[str], mirrors: Tensor | None) -> Tensor:
    """Which classes' clips may be mirrored, bool (num_classes,): the mirror image is the same class, or a known one."""
    alike = presets.flippable(classes)
    return alike if mirrors is None else alike | (mirrors != torch.arange(len(classes)))


def _scan(folder: VideoFolder, options: ClipOptions, with_motion: bool) -> VideoIndex:
    """The index of the videos: rank 0 scans while the others wait, and then find the work done."""
    name = hashlib.sha256(str(folder.root.resolve()).encode()).hexdigest()[:16]
    scan = partial(
        scan_videos,
        folder,
        options.cache_dir / f"{name}.index",
        options.num_workers,
        with_motion=with_motion,
        quiet=not is_main(),
    )
    index = scan() if is_main() else None
    barrier()
    return index or scan()


def _complete_caches(splits: Sequence[tuple[VideoFolder, ClipOptions]]) -> list[ClipCache | None]:
    """Each split's cache, the same one where only their selection differs; None for those that are to be decoded.

    Missing entries are built, each video by one process, once there is the space for all.
    """
    caches: dict[Path, ClipCache] = {}
    places = []
    for folder, options in splits:
        rates = (options.frame_rate, options.candidate_rate)
        settings = CacheSettings(options.resize_size, options.clip_len, *rates, options.cache_format)
        places.append(settings.folder(options.cache_dir, folder.root))
        if options.cached and places[-1] not in caches:
            caches[places[-1]] = ClipCache(folder, settings, places[-1])
    order = list(caches.values())
    for number, cache in enumerate(order, 1):
        complete_cache(cache, splits[0][1].num_workers, later=order[number:])
    return [caches.get(place) for place in places]


def _report_unreadable(folder: VideoFolder, index: VideoIndex, skip_unreadable: bool) -> None:
    """Lists the files that cannot be read; raises UnreadableVideos unless they may be skipped."""
    if not index.reasons:
        return
    lines = [f"  {folder.path(video)}: {reason}" for video, reason in sorted(index.reasons.items())]
    listing = "\n".join([f"{len(index.reasons)} of {len(folder)} videos in {folder.root} cannot be read:", *lines])
    if not skip_unreadable:
        raise UnreadableVideos(listing, folder.root.parent)
    print_main(f"{listing}\nGoing on without them (--skip-unreadable)")
