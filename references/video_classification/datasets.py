"""VideoFolder: what videos there are. ClipDataset: what a step sees of them. Samplers: which, and in what order."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import av
import numpy as np
import presets
import torch
from decoding import iter_rgb
from errors import UserError
from frame_selection import VideoTiming, official_strip, snap
from resizing import Region, resize_crop
from tables import Ragged
from torch import Tensor

VIDEO_ENDINGS = (
    *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"),
    *(".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp", ".ogv"),
)
EVALUATION = -1  # in place of an epoch: nothing is random


class DatasetError(UserError):
    """A folder that is not what training needs; the message names what is wrong."""


class VideoFolder:
    """The videos of `root/<class>/`, in the order of classes and names.

    Args:
        root: a folder with a folder a class.
        classes: the names that labels count in; by default the folders', sorted. A class without a folder is no error.

    Attributes:
        names: each video's path relative to `root`. labels: int64 (N,). sizes, mtimes_ns: of each file, int64 (N,).

    Raises:
        DatasetError: no such folder, no video in it, or a class folder that `classes` does not name.
    """

    def __init__(self, root: Path, classes: Sequence[str] | None = None) -> None:
        self.root = Path(root)
        folders = class_folders(self.root)
        self.classes = list(folders if classes is None else classes)
        label_of = {name: label for label, name in enumerate(self.classes)}
        if unknown := [name for name in folders if name not in label_of]:
            raise DatasetError(
                f"{self.root} holds a class that training does not know: {', '.join(unknown)} "
                f"(known: {', '.join(self.classes)})"
            )
        names, labels, sizes, mtimes = [], [], [], []
        for folder in folders:
            for entry in sorted(os.scandir(self.root / folder), key=lambda entry: entry.name):
                if entry.name.lower().endswith(VIDEO_ENDINGS) and not entry.name.startswith("."):
                    status = _status(entry)
                    names.append(f"{folder}/{entry.name}")
                    labels.append(label_of[folder])
                    sizes.append(status.st_size)
                    mtimes.append(status.st_mtime_ns)
        if not names:
            raise DatasetError(f"{self.root} holds no videos: expected {self.root}/<class>/<video>.mp4")
        self.names = Ragged.of_strings(names)
        columns = (np.array(column, np.int64) for column in (labels, sizes, mtimes))
        self.labels, self.sizes, self.mtimes_ns = columns

    def __len__(self) -> int:
        return len(self.names)

    def path(self, video: int) -> str:
        """Where the file lies."""
        return os.path.join(self.root, self.names.string(video))


def class_folders(root: Path) -> list[str]:
    """The sorted names of the folders in `root`. Raises DatasetError where there is no such folder."""
    if not root.is_dir():
        raise DatasetError(f"{root} is not a folder: expected train/<class>/ and val/<class>/ under --data-path")
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))


class Sample(NamedTuple):
    """Which clip: a video's row, the number of the clip, and the epoch that its randomness belongs to."""

    video: int
    clip: int = 0
    epoch: int = EVALUATION


class ClipPlan(NamedTuple):
    """All that was chosen and drawn for a clip; reading it needs no more chance."""

    indices: Tensor
    region: Region
    flip: bool


class Batch(NamedTuple):
    """What a step sees.

    clips: uint8, or float32 in [0, 1], (B, T, H, W, C). targets, videos: int64 (B,). flips: bool (B,).
    """

    clips: Tensor
    targets: Tensor
    videos: Tensor
    flips: Tensor


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
        return f"decoded {self._folder.root.resolve()} {self._resize_size} {versions}"

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
        self._crop_size, self._candidate_rate = crop_size, candidate_rate
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
            return ClipPlan(indices, Region(top, left, *self._crop_size), False)
        draws = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        top, left = (int(draw * (slack + 1)) for draw, slack in zip(draws, self._slack, strict=False))
        may_flip = bool(self._may_flip) and self._may_flip[self.folder.labels[sample.video]]
        return ClipPlan(indices, Region(top, left, *self._crop_size), may_flip and draws[2] < 0.5)

    def describe(self, drawn: bool) -> dict[str, Any]:
        """All that decides on the plan of a clip beside its file, plain values; with what is drawn from if `drawn`."""
        selector, options = getattr(self._selector, "func", self._selector), getattr(self._selector, "keywords", {})
        official = {
            "selector": selector.__name__,
            "clip_len": self.clip_len,
            "frame_rate": self.frame_rate,
            "clips_per_video": self.clips_per_video,
            "candidate_rate": self._candidate_rate,
            "crop": [self._slack, self._crop_size],
        }
        random = {"options": options, "may_flip": self._may_flip, "random": self._random, "seed": self._seed}
        return {**official, **random} if drawn else official

    @staticmethod
    def to_inputs(clips: Tensor, flips: Tensor) -> Tensor:
        """What the network takes: the batch's clips flipped and normalised, float32 (B, C, T, H, W)."""
        return presets.normalize(presets.flip(clips, flips))

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, C)."""
        return (self.clip_len, *self._crop_size, 3)

    def read_into(self, clip: np.ndarray, sample: Sample) -> bool:
        """Writes the clip, (T, H, W, C) of the reader's type, and tells whether to flip it on the device."""
        plan = self.plan(sample)
        self.reader.read_into(clip, sample.video, plan.indices.numpy(), plan.region)
        return plan.flip


def seeded_generator(*key: int) -> torch.Generator:
    """A generator for this key alone: neighbouring keys give unrelated numbers."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def training_samples(
    videos: Tensor, clips_per_video: int, seed: int, epoch: int, rank: int = 0, world_size: int = 1, seen: int = 0
) -> list[Sample]:
    """This process's share of an epoch: all clips of `videos` in an order of (seed, epoch) alone.

    At most `world_size - 1` clips are seen twice, so that every process takes the same number of steps. The first
    `seen` clips of the order are left out: processes deal it out in turn, so together they have seen the first of it.
    """
    order = torch.randperm(len(videos) * clips_per_video, generator=seeded_generator(seed, epoch))[seen:]
    needed = -(-len(order) // world_size) * world_size
    order = order.repeat(needed // max(len(order), 1) + 1)[:needed][rank::world_size]
    rows, clips = videos[order // clips_per_video].tolist(), (order % clips_per_video).tolist()
    return [Sample(video, clip, epoch) for video, clip in zip(rows, clips, strict=True)]


def evaluation_samples(videos: Tensor, clips_per_video: int, rank: int = 0, world_size: int = 1) -> list[Sample]:
    """This process's share of validation: each video whole and once, no padding."""
    own = videos[rank::world_size].tolist()
    return [Sample(video, clip) for video in own for clip in range(clips_per_video)]


def _status(entry: os.DirEntry) -> os.stat_result:
    try:
        return entry.stat()
    except OSError:  # a dangling link: reading it will say so
        return entry.stat(follow_symlinks=False)
