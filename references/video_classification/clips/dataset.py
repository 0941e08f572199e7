"""Plans and reads clips: which frames of a video, which crop, flipped or not."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import av
import numpy as np
import torch
from torch import Tensor

from clips import presets
from clips.preprocessing import MEAN, STD, Preprocessing
from clips.samplers import EVALUATION, Sample, seeded_generator
from videos.decoding import iter_rgb
from videos.frame_selection import FRAME_SELECTORS, VideoTiming, official_strip, snap
from videos.pixels import RGB_RULE
from videos.resizing import Crop, Region, resize_crop


class ClipPlan(NamedTuple):
    """Everything that was chosen or drawn for a clip; reading it draws nothing more."""

    indices: Tensor  # int64 (T,), of the frames
    region: Region | Crop  # the latter where the size of resized frames depends on the video
    flip: bool


class Batch(NamedTuple):
    """Clips as they come from the loader."""

    clips: Tensor  # uint8, or float32 in [0, 1], (B, T, H, W, C)
    targets: Tensor  # int64 (B,)
    videos: Tensor  # int64 (B,)
    flips: Tensor  # bool (B,)
    seeds: Tensor | None = None  # int64 (B,), of what is drawn on the device; EVALUATION where nothing is


class Videos(Protocol):
    """A `VideoFolder`, or other files with a label each."""

    root: Path
    labels: np.ndarray  # int64 (N,)

    def path(self, video: int) -> str:
        """The path of a file."""


class ClipReader(Protocol):
    """Where pixels come from: `DecodingReader`, or `ClipCache` in caching."""

    @property
    def dtype(self) -> type:
        """uint8, or float32 for pixels in [0, 1]."""

    @property
    def is_fast(self) -> bool:
        """Whether reading is mere copying, which threads do best."""

    @property
    def source(self) -> str:
        """Identifies everything that the pixels depend on beside the files."""

    def read_into(self, clip: np.ndarray, video: int, indices: np.ndarray, region: Region | Crop) -> None:
        """Writes the crop of the frames at `indices` to `clip`, (T, H, W, C)."""


class DecodingReader:
    """Reads clips from the videos themselves, by the official float path."""

    dtype: type = np.float32
    is_fast = False

    def __init__(self, folder: Videos, preprocessing: Preprocessing) -> None:
        self._folder, self._resize_size = folder, preprocessing.resize_size

    @property
    def source(self) -> str:
        """As in ClipReader."""
        versions = {name: av.library_versions[name] for name in ("libavcodec", "libswscale")}
        return f"decoded {self._folder.root.resolve()} {self._resize_size} {versions} {RGB_RULE}"

    def read_into(self, clip: np.ndarray, video: int, indices: np.ndarray, region: Region | Crop) -> None:
        """As in ClipReader. Raises VideoError."""
        wanted = indices.tolist()
        for index, frame in iter_rgb(self._folder.path(video), wanted):
            first = wanted.index(index)
            np.divide(resize_crop(frame, self._resize_size, region), 255, out=clip[first])
            clip[first + 1 : first + wanted.count(index)] = clip[first]


class JoinedReader:
    """Reads the videos of several datasets, numbered one dataset after the other; knows their timing too."""

    def __init__(self, datasets: Sequence["ClipDataset"], counts: Sequence[int]) -> None:
        """`counts`: videos of each."""
        self._datasets, self._ends = datasets, list(accumulate(counts))
        self.dtype: type = datasets[0].reader.dtype
        self.is_fast = datasets[0].reader.is_fast

    @property
    def source(self) -> str:
        """As in ClipReader."""
        return ", ".join(dataset.reader.source for dataset in self._datasets)

    def read_into(self, clip: np.ndarray, video: int, indices: np.ndarray, region: Region | Crop) -> None:
        """As in ClipReader."""
        dataset, row = self._place(video)
        dataset.reader.read_into(clip, row, indices, region)

    def timing(self, video: int) -> VideoTiming:
        """What frame selection may know about a video."""
        dataset, row = self._place(video)
        return dataset.timing(row)

    def _place(self, video: int) -> tuple["ClipDataset", int]:
        """The dataset that a video is of, and its row there."""
        part = bisect_right(self._ends, video)
        return self._datasets[part], video - ([0, *self._ends][part])


@dataclass(frozen=True)
class Augmentation:
    """What training draws for a clip: its start, crop and flip."""

    seed: int = 0
    start_prob: float = 0.5  # of the official start, where the frame selection is official
    may_flip: Tensor | None = None  # bool (num_classes,), classes whose clips may be mirrored; None flips nothing


class ClipDataset:
    """The clips of a folder's videos.

    Args:
        folder: the videos.
        timing: gives a video's VideoTiming.
        reader: where pixels come from.
        preprocessing: how frames are chosen, resized and cropped.
        clips_per_video: clips of each video.
        augmentation: what training draws; without it training sees what evaluation sees.
    """

    def __init__(
        self,
        folder: Videos,
        timing: Callable[[int], VideoTiming],
        reader: ClipReader,
        preprocessing: Preprocessing,
        clips_per_video: int = 1,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.folder, self.timing, self.reader = folder, timing, reader
        self.preprocessing, self.clips_per_video, self._augmentation = preprocessing, clips_per_video, augmentation
        self._frame_size = preprocessing.frame_size
        drawn = augmentation or Augmentation()
        self._may_flip = drawn.may_flip.tolist() if drawn.may_flip is not None else []
        is_official = preprocessing.frame_selection == "official"
        self._selector_options = {"start_prob": drawn.start_prob} if is_official else {}
        self._candidate_rate = None if is_official else preprocessing.candidate_rate

    def plan(self, sample: Sample) -> ClipPlan:
        """Chooses frames, crop and flip: the same for the same (seed, epoch, video, clip), whichever process asks."""
        generator = self._generator(sample)
        indices, crop_size = self._choose_frames(sample, generator), self.preprocessing.crop_size
        if generator is None:
            return ClipPlan(indices, self._placed(Crop(*crop_size)), False)
        top, left, flip = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        may_flip = bool(self._may_flip) and self._may_flip[self.folder.labels[sample.video]]
        return ClipPlan(indices, self._placed(Crop(*crop_size, (top, left))), may_flip and flip < 0.5)

    def _placed(self, crop: Crop) -> Region | Crop:
        """The crop's rectangle where all resized frames have one size, else the crop for each frame to place."""
        return crop if self._frame_size is None else crop.within(self._frame_size)

    def _generator(self, sample: Sample, *stream: int) -> torch.Generator | None:
        """Of what is drawn for a clip, None where nothing is; each further number gives an unrelated stream."""
        if self._augmentation is None or sample.epoch == EVALUATION:
            return None
        return seeded_generator(self._augmentation.seed, sample.epoch, sample.video, sample.clip, *stream)

    def _choose_frames(self, sample: Sample, generator: torch.Generator | None) -> Tensor:
        video, wanted = self.timing(sample.video), self.preprocessing
        select = partial(FRAME_SELECTORS[wanted.frame_selection], **self._selector_options)
        indices = select(
            video,
            wanted.clip_len,
            wanted.frame_rate,
            clip=sample.clip,
            clips_per_video=self.clips_per_video,
            generator=generator,
        )
        if self._candidate_rate is None:
            return indices
        candidates = official_strip(video.num_frames, video.fps, self._candidate_rate, wanted.clip_len).unique()
        return snap(indices, candidates)

    def describe(self, drawn: bool) -> dict[str, Any]:
        """Everything that a clip's plan depends on beside its file, as plain values; `drawn` adds the augmentation."""
        rate = self.preprocessing.frame_rate
        official = {
            "selector": self.preprocessing.frame_selection,
            "clip_len": self.preprocessing.clip_len,
            # 4 and 4.0 are the same rate, but would not be the same text; 4 is what the caches on disk have.
            "frame_rate": int(rate) if rate == int(rate) else rate,
            "clips_per_video": self.clips_per_video,
            "candidate_rate": self._candidate_rate and float(self._candidate_rate),
            "crop": [self._room(), self.preprocessing.crop_size],
        }
        wanted = self.preprocessing
        if (wanted.mean, wanted.std) != (MEAN, STD):  # features of the others were computed before there was a choice
            official["normalize"] = [wanted.mean, wanted.std]
        augmentation = self._augmentation
        random = {
            "options": self._selector_options,
            "may_flip": self._may_flip,
            "random": augmentation is not None,
            "seed": augmentation.seed if augmentation else 0,
        }
        return {**official, **random} if drawn else official

    def _room(self) -> tuple[int, ...]:
        """How far the crop can be moved, down and to the right; of frames of any size, their shorter side."""
        if self._frame_size is None:
            return self.preprocessing.resize_size
        return tuple(size - crop for size, crop in zip(self._frame_size, self.preprocessing.crop_size, strict=True))

    def device_seed(self, sample: Sample) -> int:
        """Seeds what is drawn for a clip on the device; here always EVALUATION, since nothing is."""
        return EVALUATION

    def to_inputs(self, clips: Tensor, flips: Tensor, seeds: Tensor | None = None) -> Tensor:
        """What the network takes: the batch's clips flipped and normalised, float32 (B, C, T, H, W)."""
        return presets.normalize(presets.flip(clips, flips), self.preprocessing)

    @property
    def clip_shape(self) -> tuple[int, ...]:
        """(T, H, W, C)."""
        return (self.preprocessing.clip_len, *self.preprocessing.crop_size, 3)

    def read_into(self, clip: np.ndarray, sample: Sample) -> bool:
        """Writes the clip, (T, H, W, C) of the reader's type, and returns whether to flip it on the device."""
        plan = self.plan(sample)
        self.reader.read_into(clip, sample.video, plan.indices.numpy(), plan.region)
        return plan.flip
