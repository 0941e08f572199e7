"""Replaces clips by the frozen trunk's features, and the network by the head that trains on them."""

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor, nn

from caching.building import building, cache_errors, on_first
from caching.feature_cache import FeatureCache, FeatureDataset, FeatureSettings, state_digest
from caching.splits import Clips
from clips.dataset import Batch, ClipDataset
from clips.loading import ClipLoader, run_ahead
from clips.samplers import Sample
from network.acceleration import freed_memory_kept
from network.precision import Precision, to_device
from network.trunk_and_head import check_split, split, trunk_blocks
from runtime.distributed import barrier, folder_sharers, gather_objects, is_main, print_main
from runtime.progress import Progress

# Clips that the trunk takes at once. Its activations are 29 MB per clip at 16x112x112; 32 keep a GPU busy, and on a CPU
# larger batches gain nothing (measured: the same time per clip from 1 to 16).
TRUNK_BATCH_SIZES = {"cuda": 32, "cpu": 4}
FEATURES_AHEAD = 2  # batches


@dataclass(frozen=True)
class Trunk:
    """The frozen part of a network, and what its features depend on beside the clip."""

    module: nn.Module
    digest: str  # of its state
    precision: Precision
    dtype: str  # of the stored features, a name of FEATURE_TYPES

    @torch.inference_mode()
    def features_shape(self, dataset: ClipDataset) -> tuple[int, ...]:
        """(C, T, H, W) of a clip's features."""
        clip = random_clip(dataset, self.precision)
        return tuple(self.module(clip).shape[1:])

    @torch.inference_mode()
    def features(self, batch: Batch, dataset: ClipDataset) -> Tensor:
        """The features of a batch of clips: (B, C, T, H, W) on the CPU."""
        inputs, _ = to_device(batch, dataset.to_inputs, self.precision)
        with self.precision.autocast():
            return self.module(inputs).cpu()


def train_on_features(
    model: nn.Module,
    frozen: Sequence[str],
    trainable: Sequence[str],
    train: Clips,
    val: Sequence[Clips],
    *,
    precision: Precision,
    dtype: str,
    views: int,
) -> tuple[nn.Module, list[str], Clips, list[Clips]]:
    """Splits the network into trunk and head, and computes the trunk's features that are not stored yet.

    Args:
        model: on its device.
        frozen: names of its frozen modules.
        trainable: blocks to train.
        train, val: clips of videos.
        precision: of the trunk.
        dtype: a name of FEATURE_TYPES.
        views: of each training clip.

    Returns:
        The head, which shares its modules with `model`; the names of its frozen modules; train and val as features.

    Raises:
        ModelError: the network cannot be split there.
        CacheError: there is too little space, or values do not fit into the type.
        VideoError: a clip does not decode.
    """
    module, head = split(model, trunk_blocks(model, trainable))
    check_split(model, module, head, random_clip(train.loader.dataset, precision))
    trunk = Trunk(module, state_digest(module), precision, dtype)
    val = [keep_features(trunk, clips, "validation") for clips in val]
    kept = dict(head.named_modules())
    frozen = [name for name in frozen if name in kept]
    return head, frozen, keep_features(trunk, train, "training", views), val


def random_clip(dataset: ClipDataset, precision: Precision) -> Tensor:
    """A random clip (1, C, T, H, W) of the dataset's size, on the device, always the same."""
    clip = torch.rand(1, *dataset.preprocessing.clip_shape, generator=torch.Generator().manual_seed(0))
    return clip.to(precision.device, memory_format=precision.memory_format)


def keep_features(trunk: Trunk, clips: Clips, what: str, views: int = 1) -> Clips:
    """The same clips as features. Those that the cache lacks are computed, each by one process.

    Args:
        trunk: computes them.
        clips: of videos.
        what: names the split on the screen.
        views: of each clip.

    Raises:
        CacheError, VideoError: as `train_on_features`.
    """
    dataset, options = clips.loader.dataset, clips.options
    settings = FeatureSettings(
        trunk.digest,
        dataset.reader.source,
        dataset.describe(drawn=views > 1),
        f"{trunk.precision.device.type} {trunk.precision.amp}",
        trunk.dtype,
        trunk.features_shape(dataset),
    )
    cache = FeatureCache(dataset.folder, settings, settings.folder(options.cache_dir), dataset.clips_per_video, views)
    _complete(cache, trunk, clips, what)
    features = FeatureDataset(cache, options.seed)
    loader = ClipLoader(features, options.batch_size, options.num_workers, options.pin_memory)
    return replace(clips, loader=loader, pixels=f"{clips.pixels}; as features of the trunk, {trunk.dtype}")


def _complete(cache: FeatureCache, trunk: Trunk, clips: Clips, what: str) -> None:
    """Computes what `cache` lacks of `clips`; every process calls it, and those that see the folder share the work."""
    if not any(gather_objects(len(cache.missing(clips.videos)))):
        return
    sharers = folder_sharers(cache.folder)
    with contextlib.ExitStack() as stack:
        on_first(sharers, lambda: _prepare(cache, clips.videos, stack))
        cache.reload()
        missing = cache.missing(clips.videos)  # none if another run has made them meanwhile
        size = f"{cache.settings.entry_bytes / 1e3:.0f} kB each"
        print_main(f"Features of {what}: {len(missing)} to compute, {size}, in {cache.folder}")
        own = sharers.share(missing)
        barrier()  # every process has looked before any of them writes
        with (
            cache_errors("feature cache", cache.folder),
            Progress(f"Features of {what}", len(own), "clip", quiet=not is_main()) as progress,
            contextlib.closing(compute_features(trunk, clips, own, progress)) as features,
        ):
            cache.add(features)
        barrier()
    cache.reload()


def _prepare(cache: FeatureCache, videos: Tensor, stack: contextlib.ExitStack) -> None:
    """Takes the lock, and checks the space. Raises CacheError."""
    if not cache.missing(videos):
        return  # other machines have a folder that lacks some
    stack.enter_context(building(cache, "feature cache", "its features are computed again"))
    cache.check_space(len(cache.missing(videos)))


def compute_features(
    trunk: Trunk, clips: Clips, samples: Sequence[Sample], progress: Progress
) -> Generator[tuple[Sample, Tensor], None, None]:
    """Yields each sample with its features (C, T, H, W) on the CPU."""
    loader, device_type = clips.loader, trunk.precision.device.type
    batch_size = TRUNK_BATCH_SIZES.get(device_type, max(TRUNK_BATCH_SIZES.values()))
    batches = ClipLoader(loader.dataset, batch_size, loader.num_workers, clips.options.pin_memory).batches(samples)
    outputs = (trunk.features(batch, loader.dataset) for batch in batches)
    if device_type != "cpu":
        # The device computes while the caller writes. A CPU gains nothing, and glibc keeps freed memory for the main
        # thread alone.
        outputs = run_ahead(outputs, FEATURES_AHEAD)
    rows = iter(samples)
    with freed_memory_kept(device_type):
        for features in outputs:
            yield from zip(islice(rows, len(features)), features, strict=True)
            progress.update(len(features))
