"""`--augment strong`: random resized crop, RandAugment, colour jitter and random erasing of whole clips, on the device.

Everything is drawn once per clip, on the CPU, from a generator seeded by the clip: the same on every device. This is
why torchvision's own RandAugment and ColorJitter do not serve here: they draw from the global generator, and change
each frame by its own contents. Colours are changed with all frames laid out as one tall picture, so that what depends
on the contents (contrast, equalisation) changes all frames alike and does not flicker.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from clips.dataset import ClipDataset
from clips.preprocessing import MEAN
from clips.presets import flip, normalize
from clips.samplers import EVALUATION, Sample
from videos.resizing import Crop, Region

CROP_SCALE, CROP_RATIO = (0.5, 1.0), (3 / 4, 4 / 3)  # share of the area; width / height
JITTER, HUE_JITTER = 0.3, 0.05  # brightness, contrast, saturation: factor 1 +- this; hue: turns
ERASE_PROB, ERASE_SCALE, ERASE_RATIO = 0.25, (0.02, 0.2), (0.3, 3.3)
RANDAUGMENT_OPS = 2  # per clip
MAX_TURN_DEGREES, MAX_SHEAR_DEGREES, MAX_SHIFT = 15.0, 10.0, 0.1  # shift: share of the side


class Draws:
    """Draws random numbers for one clip."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * torch.rand((), generator=self._generator, dtype=torch.float64).item()

    def choice(self, count: int) -> int:
        """An element of `range(count)`."""
        return int(torch.randint(count, (), generator=self._generator))


class StrongClipDataset(ClipDataset):
    """A ClipDataset that reads whole resized frames, and augments them on the device."""

    def _placed(self, crop: Crop) -> Region:
        """The whole frame: the crop is made on the device."""
        return Region(0, 0, *self._whole_size)

    @property
    def clip_shape(self) -> tuple[int, ...]:
        """(T, H, W, C) of the frames before the crop."""
        return (self.preprocessing.clip_len, *self._whole_size, 3)

    @property
    def _whole_size(self) -> tuple[int, int]:
        """Of the resized frames. Raises ValueError where they differ in size, and make no batch."""
        if self._frame_size is None:
            raise ValueError("strong augmentation needs frames of one size: give the resize size as height and width")
        return self._frame_size

    def device_seeds(self, samples: Sequence[Sample]) -> Tensor:
        """Seeds what is drawn for each clip on the device, int64 (B,); EVALUATION where nothing is."""
        if self._augmentation is None:
            return super().device_seeds(samples)
        seeds = torch.from_numpy((self._seeds(samples, 1) >> np.uint64(1)).astype(np.int64))
        epochs = torch.tensor([sample.epoch for sample in samples])
        return torch.where(epochs == EVALUATION, EVALUATION, seeds)

    def to_inputs(self, clips: Tensor, flips: Tensor, seeds: Tensor | None = None) -> Tensor:
        """What the network takes: the batch's clips flipped, augmented and normalised, float32 (B, C, T, H, W)."""
        seeds = torch.full((len(clips),), EVALUATION) if seeds is None else seeds
        return normalize(augment(flip(clips, flips), seeds, self.preprocessing.crop_size), self.preprocessing)


def augment(clips: Tensor, seeds: Tensor, crop_size: tuple[int, int]) -> Tensor:
    """Crops and changes each clip as drawn by its seed; the seed EVALUATION gives the unchanged centre crop.

    Args:
        clips: uint8, or float in [0, 1], (B, T, H, W, C).
        seeds: int64 (B,).
        crop_size: height and width of the result.

    Returns:
        float32 (B, T, *crop_size, C) in [0, 1].
    """
    scale = 255.0 if clips.dtype == torch.uint8 else 1.0
    frames = clips.permute(0, 1, 4, 2, 3).float() / scale  # B T C H W
    done = [_augment_clip(clip, seed, crop_size) for clip, seed in zip(frames, seeds.tolist(), strict=True)]
    return torch.stack(done).permute(0, 1, 3, 4, 2)


def _augment_clip(clip: Tensor, seed: int, crop_size: tuple[int, int]) -> Tensor:
    """(T, C, H, W) to (T, C, *crop_size)."""
    if seed == EVALUATION:
        return F.center_crop(clip, list(crop_size))
    draws = Draws(seed)
    height, width = clip.shape[-2:]
    region = draw_region(draws, height, width, CROP_SCALE, CROP_RATIO)
    clip = F.resized_crop(clip, *region, size=list(crop_size), antialias=False)
    for _ in range(RANDAUGMENT_OPS):
        change = RANDAUGMENT[draws.choice(len(RANDAUGMENT))]
        clip = change(clip, draws.uniform(-1, 1))
    return erase(jitter(clip, draws), draws).clamp(0, 1)


def draw_region(
    draws: Draws, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Draws a rectangle within a picture.

    Args:
        draws: where the numbers come from.
        height, width: of the picture.
        scale: range of the rectangle's area, as a share of the picture's.
        ratio: range of width / height; a rectangle that is too large is cut to fit.

    Returns:
        top, left, height, width.
    """
    area = height * width * draws.uniform(*scale)
    aspect = math.exp(draws.uniform(math.log(ratio[0]), math.log(ratio[1])))
    region_height = min(max(round(math.sqrt(area / aspect)), 1), height)
    region_width = min(max(round(math.sqrt(area * aspect)), 1), width)
    top, left = draws.choice(height - region_height + 1), draws.choice(width - region_width + 1)
    return top, left, region_height, region_width


def jitter(clip: Tensor, draws: Draws) -> Tensor:
    """Changes brightness, contrast, saturation and hue of a clip (T, C, H, W)."""
    factors = [draws.uniform(1 - JITTER, 1 + JITTER) for _ in range(3)]
    turn = draws.uniform(-HUE_JITTER, HUE_JITTER)

    def change(picture: Tensor) -> Tensor:
        changes = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation)
        for adjust, factor in zip(changes, factors, strict=True):
            picture = adjust(picture, factor)
        return F.adjust_hue(picture, turn)

    return _as_one_picture(clip, change)


def erase(clip: Tensor, draws: Draws) -> Tensor:
    """Fills a box with the mean colour, at ERASE_PROB: the same box in all frames of a clip (T, C, H, W)."""
    is_erased = draws.uniform(0, 1) < ERASE_PROB
    height, width = clip.shape[-2:]
    region = draw_region(draws, height, width, ERASE_SCALE, ERASE_RATIO)
    return F.erase(clip, *region, clip.new_tensor(MEAN)[:, None, None]) if is_erased else clip


def _as_one_picture(clip: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Applies `change` to all frames of a clip (T, C, H, W) as one picture (C, T H, W)."""
    frames, channels, height, width = clip.shape
    picture = clip.transpose(0, 1).reshape(channels, frames * height, width)
    return change(picture).reshape(channels, frames, height, width).transpose(0, 1)


def _affine(clip: Tensor, turn: float = 0.0, shift: tuple[float, float] = (0, 0), shear: tuple[float, float] = (0, 0)):
    pixels = [round(shift[0] * clip.shape[-1]), round(shift[1] * clip.shape[-2])]
    bilinear = F.InterpolationMode.BILINEAR
    return F.affine(clip, turn, pixels, 1.0, list(shear), interpolation=bilinear, fill=list(MEAN))


# Each takes a clip (T, C, H, W) in [0, 1] and a strength from -1 to 1.
RANDAUGMENT: tuple[Callable[[Tensor, float], Tensor], ...] = (
    lambda clip, strength: clip,
    lambda clip, strength: _affine(clip, turn=MAX_TURN_DEGREES * strength),
    lambda clip, strength: _affine(clip, shift=(MAX_SHIFT * strength, 0)),
    lambda clip, strength: _affine(clip, shift=(0, MAX_SHIFT * strength)),
    lambda clip, strength: _affine(clip, shear=(MAX_SHEAR_DEGREES * strength, 0)),
    lambda clip, strength: _affine(clip, shear=(0, MAX_SHEAR_DEGREES * strength)),
    lambda clip, strength: F.adjust_sharpness(clip, 1 + 0.8 * strength),
    lambda clip, strength: F.posterize(clip, 8 - round(3 * abs(strength))),
    lambda clip, strength: F.solarize(clip, 1 - 0.3 * abs(strength)),
    lambda clip, strength: _as_one_picture(clip, lambda picture: F.adjust_brightness(picture, 1 + 0.5 * strength)),
    lambda clip, strength: _as_one_picture(clip, lambda picture: F.adjust_contrast(picture, 1 + 0.5 * strength)),
    lambda clip, strength: _as_one_picture(clip, lambda picture: F.adjust_saturation(picture, 1 + 0.8 * strength)),
    lambda clip, strength: _as_one_picture(clip, F.autocontrast),
    lambda clip, strength: _as_one_picture(clip, F.equalize),
)
