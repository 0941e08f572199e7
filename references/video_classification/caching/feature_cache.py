"""What the frozen trunk makes of each clip, on disk, memory-mapped: computed once, then the head trains on it.

An entry is one view of one clip of one video: its features as raw numbers, (C, T, H, W). View 0 is the official clip,
centre crop, no flip; view v > 0 is what training would draw for this clip in epoch v. Entries are keyed by the file's
name, size and modification time, drawn ones by the video's row too, which the draws are seeded with; the folder of the
shards by everything else that features depend on.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from caching.clip_cache import CacheError
from caching.shards import Shard, ShardWriter, note_verified, open_shards
from clips.samplers import EVALUATION, Sample, seeded_generator
from videos.folder import VideoFolder

FORMAT_VERSION = 1
FEATURE_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
STORED_TYPES = {"fp16": np.float16, "bf16": np.int16, "fp32": np.float32}  # numpy has no bfloat16: its bits as int16
SHARD_BYTES = 256 << 20
SHARD_SECONDS = 60.0  # a shard is published at least this often: what a kill can cost
COLUMNS = ("sizes", "mtimes_ns", "rows", "clips", "views")


@dataclass(frozen=True)
class FeatureSettings:
    """Everything but the file itself that features depend on.

    trunk: `state_digest` of the trunk. source: where the pixels come from, `ClipReader.source`. selection: how clips
    are chosen and cropped, `ClipDataset.describe`. computed_in: device type and precision of the trunk. dtype: a name
    of FEATURE_TYPES. shape: (C, T, H, W).
    """

    trunk: str
    source: str
    selection: dict[str, Any]
    computed_in: str
    dtype: str
    shape: tuple[int, ...]

    def folder(self, cache_dir: Path) -> Path:
        """Where the shards lie."""
        key = json.dumps({**asdict(self), "version": FORMAT_VERSION}, sort_keys=True)
        return cache_dir / "features" / hashlib.sha256(key.encode()).hexdigest()[:16]

    @property
    def entry_bytes(self) -> int:
        """What a view of a clip takes on disk."""
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
    """The entries of `files`, one row a video and one column for each clip of each view, as the shards hold them.

    Args:
        files: the videos.
        settings, folder: see there.
        clips_per_video, views: how many of each.

    Attributes:
        damage: what is wrong with the shards that were left out.
        stale: shards of which no file is left as it was.
    """

    is_fast = True

    def __init__(
        self, files: VideoFolder, settings: FeatureSettings, folder: Path, clips_per_video: int, views: int
    ) -> None:
        self.settings, self.folder, self.clips_per_video, self.views = settings, folder, clips_per_video, views
        self.dtype = STORED_TYPES[settings.dtype]
        self.files = files
        self.reload()

    def reload(self) -> None:
        """Reads the shards again, after they were added to."""
        shards, self.damage = open_shards(self.folder)
        # A shard that is whole but whose entries have another size is not served either.
        self._shards = [shard for shard in shards if (shard.lengths == self.settings.entry_bytes).all()]
        shape = (len(self.files), self.views * self.clips_per_video)
        self._shard, self._row = np.full(shape, -1, np.int32), np.zeros(shape, np.int64)
        video_of = {name: video for video, name in enumerate(self.files.names.strings())}
        self.stale = [
            shard for number, shard in enumerate(self._shards) if not self._find_entries(number, shard, video_of)
        ]

    def _find_entries(self, number: int, shard: Shard, video_of: dict[str, int]) -> bool:
        """Enters what a shard holds into the tables; tells whether any of it is of a file as it is now."""
        videos = np.array([video_of.get(name, -1) for name in shard.columns["names"].strings()], np.int64)
        sizes, mtimes_ns, rows, clips, views = (shard.columns[name] for name in COLUMNS)
        current = (videos >= 0) & ((views == 0) | (rows == videos))
        current &= (sizes == self.files.sizes[videos]) & (mtimes_ns == self.files.mtimes_ns[videos])
        # Another run may keep more views here.
        asked = current & (clips < self.clips_per_video) & (views < self.views)
        slots = (views * self.clips_per_video + clips)[asked]
        self._shard[videos[asked], slots] = number
        self._row[videos[asked], slots] = np.flatnonzero(asked)
        return bool(current.any())

    def missing(self, videos: Tensor) -> list[Sample]:
        """What `videos` have no entry for, as the samples of a `ClipDataset` that give it."""
        rows, slots = np.nonzero(self._shard[videos.numpy()] < 0)
        views, clips = np.divmod(slots, self.clips_per_video)
        columns = (videos.numpy()[rows], clips, views)
        return [view_sample(*entry) for entry in zip(*(column.tolist() for column in columns), strict=True)]

    def read_into(self, features: np.ndarray, video: int, clip: int, view: int) -> None:
        """Copies an entry to `features`, (C, T, H, W) of `dtype`. Raises CacheError where there is none."""
        slot = view * self.clips_per_video + clip
        shard = self._shard[video, slot]
        if shard < 0:
            raise CacheError(f"{self.files.path(video)}: the feature cache does not hold view {view} of clip {clip}")
        blob = self._shards[shard].blob(int(self._row[video, slot]))
        features[:] = blob.view(self.dtype).reshape(features.shape)

    def add(self, entries: Iterable[tuple[Sample, Tensor]]) -> None:
        """Writes features (C, T, H, W) into new shards, published when large or old enough and at the end.

        What was published stays when `entries` raises. Call `reload` after it.

        Raises:
            CacheError: values that the type does not hold.
            OSError: the folder cannot be written.
        """
        open_since, samples, writer = 0.0, [], None
        try:
            for sample, features in entries:
                if writer is None:
                    open_since, samples, writer = time.monotonic(), [], ShardWriter(self.folder)
                writer.add(self._stored(features, sample))
                samples.append(sample)
                if writer.size_bytes > SHARD_BYTES or time.monotonic() - open_since > SHARD_SECONDS:
                    self._publish(writer, samples)
                    writer = None
            if writer is not None:
                self._publish(writer, samples)
                writer = None
        finally:
            if writer is not None:
                writer.discard()

    def _stored(self, features: Tensor, sample: Sample) -> memoryview:
        """The features' bytes in the cache's type."""
        stored = features.to(FEATURE_TYPES[self.settings.dtype]).contiguous()
        if not stored.isfinite().all():
            raise CacheError(
                f"{self.files.path(sample.video)}: its features, up to {features.abs().max().item():.3g}, do not fit "
                f"into {self.settings.dtype}: use --feature-dtype bf16 or fp32"
            )
        return stored.view(torch.uint8).numpy().reshape(-1).data

    def _publish(self, writer: ShardWriter, samples: list[Sample]) -> None:
        videos = np.array([sample.video for sample in samples])
        shard = writer.publish(
            {
                "names": self.files.names.take(videos),
                "sizes": self.files.sizes[videos],
                "mtimes_ns": self.files.mtimes_ns[videos],
                "rows": videos,
                "clips": np.array([sample.clip for sample in samples]),
                "views": np.array([view_of_sample(sample) for sample in samples]),
            }
        )
        note_verified(self.folder, [shard])

    def check_space(self, entries: int) -> None:
        """Raises CacheError where the disk has not the space for so many more entries."""
        needed, free = entries * self.settings.entry_bytes, shutil.disk_usage(self.folder).free
        if needed > free:
            smaller = {"fp32": "; --feature-dtype fp16 would need half of it"}.get(self.settings.dtype, "")
            raise CacheError(
                f"the features need {needed / 1e9:.1f} GB in {self.folder.parent}, where {free / 1e9:.1f} GB are free: "
                "free some (folders there of other trunks or settings may be deleted), take fewer views by "
                f"--cache-features, or name another disk with --cache-dir{smaller}"
            )


class FeatureDataset:
    """The features of a folder's clips, to be read as `ClipDataset` is.

    Args:
        cache: holds them all.
        seed: of the choice of views.
    """

    def __init__(self, cache: FeatureCache, seed: int) -> None:
        self.reader, self.folder, self._seed = cache, cache.files, seed
        self.clips_per_video = cache.clips_per_video

    @property
    def clip_shape(self) -> tuple[int, ...]:
        """(C, T, H, W)."""
        return self.reader.settings.shape

    def device_seed(self, sample: Sample) -> int:
        """See ClipDataset: what was drawn is in the features."""
        return EVALUATION

    def read_into(self, features: np.ndarray, sample: Sample) -> bool:
        """Copies the features of the view that this sample sees; whatever flip it has is in them."""
        view = choose_view(self._seed, sample.epoch, sample.video, self.reader.views)
        self.reader.read_into(features, sample.video, sample.clip, view)
        return False

    @staticmethod
    def to_inputs(features: Tensor, flips: Tensor, seeds: Tensor | None = None) -> Tensor:
        """What the head takes: float32 (B, C, T, H, W)."""
        return (features.view(torch.bfloat16) if features.dtype == torch.int16 else features).float()


def choose_view(seed: int, epoch: int, video: int, views: int) -> int:
    """The view that a video shows in an epoch: each of them once in any `views` epochs; validation sees view 0."""
    if epoch == EVALUATION or views == 1:
        return 0
    offset = int(torch.randint(views, (), generator=seeded_generator(seed, video)))
    return (epoch + offset) % views


def view_sample(video: int, clip: int, view: int) -> Sample:
    """The sample of a `ClipDataset` that a view is made from: what evaluation sees, or what epoch `view` would draw."""
    return Sample(video, clip, view or EVALUATION)


def view_of_sample(sample: Sample) -> int:
    """The inverse of `view_sample`."""
    return 0 if sample.epoch == EVALUATION else sample.epoch
