"""What a step sees of the videos: which frames, which crop, flipped or not."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import av
import numpy as np
import torch
from torch import Tensor

from clips import presets
from clips.samplers import EVALUATION, Sample, seeded_generator
from videos.decoding import RGB_RULE, iter_rgb
from videos.folder import VideoFolder
from videos.frame_selection import VideoTiming, official_strip, snap
from videos.resizing import Region, resize_crop


class ClipPlan(NamedTuple):
    """All that was chosen and drawn for a clip; reading it needs no more chance."""

    indices: Tensor
    region: Region
    flip: bool


class Batch(NamedTuple):
    """What a step sees.

    clips: uint8, or float32 in [0, 1], (B, T, H, W, C). targets, videos: int64 (B,). flips: bool (B,). seeds: int64
    (B,), of what is drawn on the device, EVALUATION for nothing.
    """

    clips: Tensor
    targets: Tensor
    videos: Tensor
    flips: Tensor
    seeds: Tensor | None = None


class ClipReader(Protocol):
    """Where pixels come from: `DecodingReader` or `clip_cache.ClipCache`.

    Attributes:
        dtype: uint8, or float32 for pixels in [0, 1].
        is_fast: whether reading is a matter of copying, so that a thread does it best.
        source: names all that the pixels depend on beside the files.
    """

    dtype: type
    is_fast: bool
    source: str

    def read_into(self, clip: np.ndarray, video: int, indices: np.ndarray, region: Region) -> None:
        """Writes the crop of the frames at `indices` to `clip`, (T, H, W, C)."""


class DecodingReader:
    """Reads clips from the videos themselves, by the official float path."""

    dtype = np.float32
    is_fast = False

    def __init__(self, folder: VideoFolder, resize_size: tuple[int, int]) -> None:
        self._folder, self._resize_size = folder, resize_size

    @property
    def source(self) -> str:
        """See ClipReader."""
        versions = {name: av.library_versions[name] for name in ("libavcodec", "libswscale")}
        return f"decoded {self._folder.root.resolve()} {self._resize_size} {versions} {RGB_RULE}"

    def read_into(self, clip: np.ndarray, video: int, indices: np.ndarray, region: Region) -> None:
        """See ClipReader. Raises VideoError."""
        indices = indices.tolist()
        for index, frame in iter_rgb(self._folder.path(video), indices):
            first = indices.index(index)
            np.divide(resize_crop(frame, self._resize_size, region), 255, out=clip[first])
            clip[first + 1 : first + indices.count(index)] = clip[first]


class ClipDataset:
    """The clips of a folder's videos.

    Args:
        folder: the videos.
        timing: gives a video's VideoTiming.
        reader: where pixels come from.
        selector: one of FRAME_SELECTORS, options bound.
        clip_len: frames a clip.
        frame_rate: frames a second that the official strip has.
        clips_per_video: clips a video.
        candidate_rate: where given, the selector's choice is moved to the nearest frames at this rate.
        resize_size, crop_size: height and width.
        may_flip: bool (num_classes,), classes whose mirror image is the same class; None flips nothing.
        random: draw start, crop and flip in training; without it training sees what evaluation sees.
        seed: of all that is drawn.
    """

    def __init__(
        self,
        folder: VideoFolder,
        timing: Callable[[int], VideoTiming],
        reader: ClipReader,
        selector: Callable[..., Tensor],
        *,
        clip_len: int,
        frame_rate: float,
        clips_per_video: int,
        resize_size: tuple[int, int],
        crop_size: tuple[int, int],
        candidate_rate: float | None = None,
        may_flip: Tensor | None = None,
        random: bool = False,
        seed: int = 0,
    ) -> None:
        self.folder, self._timing, self.reader, self._selector = folder, timing, reader, selector
        self.clip_len, self.frame_rate, self.clips_per_video = clip_len, frame_rate, clips_per_video
        self._slack = tuple(resize - crop for resize, crop in zip(resize_size, crop_size, strict=True))
        self.resize_size, self.crop_size, self._candidate_rate = resize_size, crop_size, candidate_rate
        self._may_flip = may_flip.tolist() if may_flip is not None else []
        self._random, self._seed = random, seed

    def plan(self, sample: Sample) -> ClipPlan:
        """Chooses frames, crop and flip: the same for the same (seed, epoch, video, clip), whoever asks."""
        is_random = self._random and sample.epoch != EVALUATION
        generator = seeded_generator(self._seed, sample.epoch, sample.video, sample.clip) if is_random else None
        video = self._timing(sample.video)
        indices = self._selector(
            video,
            self.clip_len,
            self.frame_rate,
            clip=sample.clip,
            clips_per_video=self.clips_per_video,
            generator=generator,
        )
        if self._candidate_rate is not None:
            candidates = official_strip(video.num_frames, video.fps, self._candidate_rate, self.clip_len).unique()
            indices = snap(indices, candidates)
        if generator is None:
            # As torchvision's CenterCrop rounds.
            top, left = (int(round(slack / 2.0)) for slack in self._slack)
            return ClipPlan(indices, Region(top, left, *self.crop_size), False)
        draws = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        top, left = (int(draw * (slack + 1)) for draw, slack in zip(draws, self._slack, strict=False))
        may_flip = bool(self._may_flip) and self._may_flip[self.folder.labels[sample.video]]
        return ClipPlan(indices, Region(top, left, *self.crop_size), may_flip and draws[2] < 0.5)

    def describe(self, drawn: bool) -> dict[str, Any]:
        """All that decides on the plan of a clip beside its file, plain values; with what is drawn from if `drawn`."""
        selector, options = getattr(self._selector, "func", self._selector), getattr(self._selector, "keywords", {})
        official = {
            "selector": selector.__name__,
            "clip_len": self.clip_len,
            "frame_rate": self.frame_rate,
            "clips_per_video": self.clips_per_video,
            "candidate_rate": self._candidate_rate,
            "crop": [self._slack, self.crop_size],
        }
        random = {"options": options, "may_flip": self._may_flip, "random": self._random, "seed": self._seed}
        return {**official, **random} if drawn else official

    def device_seed(self, sample: Sample) -> int:
        """Of what is drawn for a clip on the device; EVALUATION, since nothing is."""
        return EVALUATION

    @staticmethod
    def to_inputs(clips: Tensor, flips: Tensor, seeds: Tensor | None = None) -> Tensor:
        """What the network takes: the batch's clips flipped and normalised, float32 (B, C, T, H, W)."""
        return presets.normalize(presets.flip(clips, flips))

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, C)."""
        return (self.clip_len, *self.crop_size, 3)

    def read_into(self, clip: np.ndarray, sample: Sample) -> bool:
        """Writes the clip, (T, H, W, C) of the reader's type, and tells whether to flip it on the device."""
        plan = self.plan(sample)
        self.reader.read_into(clip, sample.video, plan.indices.numpy(), plan.region)
        return plan.flip
