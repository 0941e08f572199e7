"""The frozen trunk's features of each clip on disk, memory-mapped: computed once, then the head trains on them.

An entry is one view of one clip of one video: its features as raw numbers, (C, T, H, W). View 0 is the official clip,
centre crop, no flip; view v > 0 is what training would draw for this clip in epoch v. Entries are keyed by the file's
name, size and modification time, drawn ones by the video's row too, since it seeds the draws; the folder of the shards
by everything else that features depend on.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from caching.building import check_space
from caching.shards import CacheError, Shard, ShardWriter, open_shards
from clips.samplers import EVALUATION, Sample, hashed
from runtime.columns import Ragged
from videos.folder import VideoFolder
from videos.index import RowMatcher

FORMAT_VERSION = 1
FEATURE_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
STORED_TYPES = {"fp16": np.float16, "bf16": np.int16, "fp32": np.float32}  # numpy has no bfloat16: its bits as int16


@dataclass(frozen=True)
class FeatureSettings:
    """Everything but the file itself that features depend on."""

    trunk: str  # its `state_digest`
    source: str  # where the pixels come from, `ClipReader.source`
    selection: dict[str, Any]  # how clips are chosen and cropped, `ClipDataset.describe`
    computed_in: str  # device type and precision of the trunk
    dtype: str  # a name of FEATURE_TYPES
    shape: tuple[int, ...]  # (C, T, H, W)

    def folder(self, cache_dir: Path) -> Path:
        """The folder of the shards."""
        key = json.dumps({**asdict(self), "version": FORMAT_VERSION}, sort_keys=True)
        return cache_dir / "features" / hashlib.sha256(key.encode()).hexdigest()[:16]

    @property
    def entry_bytes(self) -> int:
        """The size of a view of a clip on disk."""
        return int(np.prod(self.shape)) * FEATURE_TYPES[self.dtype].itemsize


def state_digest(module: nn.Module) -> str:
    """A hash of a module's structure, parameters and buffers."""
    digest = hashlib.sha256(str(module).encode())
    for name, value in module.state_dict().items():
        data = value.detach().cpu().contiguous()
        digest.update(f"{name} {data.dtype} {tuple(data.shape)}".encode())
        digest.update(data.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


class FeatureCache:
    """The entries of `files`, one row per video and one column for each clip of each view, as the shards hold them.

    Args:
        files: the videos.
        settings: what the features depend on.
        folder: of the shards.
        clips_per_video: clips of each video.
        views: of each clip.

    Attributes:
        damage: what is wrong with the shards that are not used.
        unused: shards that hold nothing of any file as it is now.
    """

    is_fast = True

    def __init__(
        self, files: VideoFolder, settings: FeatureSettings, folder: Path, clips_per_video: int, views: int
    ) -> None:
        self.settings, self.folder, self.clips_per_video, self.views = settings, folder, clips_per_video, views
        self.dtype: type = STORED_TYPES[settings.dtype]
        self.files = files
        self.reload()

    def reload(self) -> None:
        """Reads the shards again, after some were added."""
        shards, self.damage = open_shards(self.folder)
        # A whole shard whose entries have another size is not served either.
        self._shards = [shard for shard in shards if np.all(shard.lengths == self.settings.entry_bytes)]
        shape = (len(self.files), self.views * self.clips_per_video)
        self._shard, self._row = np.full(shape, -1, np.int32), np.zeros(shape, np.int64)
        matcher = RowMatcher(self.files)
        self.unused = [
            shard for number, shard in enumerate(self._shards) if not self._find_entries(number, shard, matcher)
        ]

    def _find_entries(self, number: int, shard: Shard, matcher: RowMatcher) -> bool:
        """Enters what a shard holds into the tables; returns whether any of it is of a file as it is now."""
        rows, videos = matcher.unchanged(shard.columns)
        drawn_for, clips, views = (shard.columns[name][rows] for name in ("rows", "clips", "views"))
        current = (views == 0) | (drawn_for == videos)
        # Another run may keep more clips or views here.
        wanted = current & (clips < self.clips_per_video) & (views < self.views)
        slots = (views * self.clips_per_video + clips)[wanted]
        self._shard[videos[wanted], slots] = number
        self._row[videos[wanted], slots] = rows[wanted]
        return bool(current.any())

    def missing(self, videos: Tensor) -> list[Sample]:
        """The entries that `videos` lack, as the samples of a `ClipDataset` that they are made from."""
        rows, slots = np.nonzero(self._shard[videos.numpy()] < 0)
        views, clips = np.divmod(slots, self.clips_per_video)
        columns = (videos.numpy()[rows], clips, views)
        return [view_sample(*entry) for entry in zip(*(column.tolist() for column in columns), strict=True)]

    def blob(self, video: int, clip: int, view: int) -> np.ndarray:
        """An entry's bytes in the map. Raises CacheError if there is none."""
        slot = view * self.clips_per_video + clip
        shard = self._shard[video, slot]
        if shard < 0:
            raise CacheError(f"{self.files.path(video)}: the feature cache does not hold view {view} of clip {clip}")
        return self._shards[shard].blob(self._row[video, slot])

    def add(self, entries: Iterable[tuple[Sample, Tensor]]) -> None:
        """Writes features (C, T, H, W) into new shards; what was written stays when `entries` raises. Then `reload`.

        Raises:
            CacheError: values that the type does not hold.
            OSError: the folder cannot be written.
        """
        with ShardWriter(self.folder, self._columns) as writer:
            for sample, features in entries:
                writer.add(self._stored(features, sample), sample)

    def _stored(self, features: Tensor, sample: Sample) -> memoryview:
        """The features' bytes in the cache's type."""
        stored = features.to(FEATURE_TYPES[self.settings.dtype]).contiguous()
        if not stored.isfinite().all():
            raise CacheError(
                f"{self.files.path(sample.video)}: its features, up to {features.abs().max().item():.3g}, do not fit "
                f"into {self.settings.dtype}: use --feature-dtype bf16 or fp32"
            )
        return stored.view(torch.uint8).numpy().reshape(-1).data

    def _columns(self, samples: list[Sample]) -> dict[str, np.ndarray | Ragged]:
        videos = np.array([sample.video for sample in samples])
        return {
            "names": self.files.names.take(videos),
            "sizes": self.files.sizes[videos],
            "mtimes_ns": self.files.mtimes_ns[videos],
            "rows": videos,
            "clips": np.array([sample.clip for sample in samples]),
            "views": np.array([view_of_sample(sample) for sample in samples]),
        }

    def check_space(self, entries: int) -> None:
        """Raises CacheError if the disk has too little space for so many more entries."""
        advice = ", or take fewer views by --cache-features (folders there of other trunks or settings may be deleted)"
        advice += "; --feature-dtype fp16 would need half of it" if self.settings.dtype == "fp32" else ""
        check_space(self.folder, entries * self.settings.entry_bytes, "the features need", advice)


class FeatureDataset:
    """The features of a folder's clips, read as a `ClipDataset` is.

    Args:
        cache: holds all of them.
        seed: of the choice of views.
    """

    def __init__(self, cache: FeatureCache, seed: int) -> None:
        self.reader, self.folder, self._seed = cache, cache.files, seed
        self.clips_per_video = cache.clips_per_video

    @property
    def clip_shape(self) -> tuple[int, ...]:
        """(C, T, H, W)."""
        return self.reader.settings.shape

    def device_seeds(self, samples: Sequence[Sample]) -> Tensor:
        """EVALUATION for each, int64 (B,): what was drawn is in the features."""
        return torch.full((len(samples),), EVALUATION)

    def read_into(self, clips: np.ndarray, samples: Sequence[Sample]) -> list[bool]:
        """Copies the features of the view that each sample sees; its flip, if any, is in them. Raises CacheError."""
        views = choose_views(self._seed, samples, self.reader.views)
        blobs = [self.reader.blob(sample.video, sample.clip, view) for sample, view in zip(samples, views, strict=True)]
        # All in one call: threads that asked for the interpreter again after each would be as slow as one.
        rows = torch.from_numpy(clips).view(torch.uint8).view(len(clips), -1)
        torch.stack(list(map(torch.from_numpy, blobs)), out=rows)
        return [False] * len(samples)

    def to_inputs(self, clips: Tensor, flips: Tensor, seeds: Tensor | None = None) -> Tensor:
        """What the head takes: float32 (B, C, T, H, W)."""
        return (clips.view(torch.bfloat16) if clips.dtype == torch.int16 else clips).float()


def choose_views(seed: int, samples: Sequence[Sample], views: int) -> list[int]:
    """The view that each sample sees: of a video each once in any `views` epochs; validation sees view 0."""
    videos, _, epochs = np.array(samples, np.int64).T
    offsets = (hashed(seed, videos) % np.uint64(views)).astype(np.int64)
    return np.where(epochs == EVALUATION, 0, (epochs + offsets) % views).tolist()


def view_sample(video: int, clip: int, view: int) -> Sample:
    """The sample of a `ClipDataset` that a view is made from: of evaluation, or of epoch `view`."""
    return Sample(video, clip, view or EVALUATION)


def view_of_sample(sample: Sample) -> int:
    """The inverse of `view_sample`."""
    return 0 if sample.epoch == EVALUATION else sample.epoch
