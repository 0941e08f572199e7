"""`--augment strong`: random resized crop, RandAugment, colour jitter and random erasing of whole clips. A room of its
own beside `presets`: it works on whole resized frames, on the device, by torchvision's functional transforms.

What is drawn is drawn once a clip, from a generator of the clip's own seed, on the CPU: the same on every device.
Colours are changed with all frames of a clip laid out as one tall picture, so that what depends on a picture's contents
(contrast, equalisation) changes all frames alike and does not flicker.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from clips.dataset import ClipDataset, ClipPlan
from clips.presets import MEAN, flip, normalize
from clips.samplers import EVALUATION, Sample, seeded_generator
from videos.resizing import Region

CROP_SCALE, CROP_RATIO = (0.5, 1.0), (3 / 4, 4 / 3)  # area of the crop, width by height
JITTER, HUE_JITTER = 0.3, 0.05  # brightness, contrast and saturation change by up to this factor; hue by this turn
ERASE_PROB, ERASE_SCALE, ERASE_RATIO = 0.25, (0.02, 0.2), (0.3, 3.3)
RANDAUGMENT_OPS = 2  # a clip
MAX_TURN_DEGREES, MAX_SHEAR_DEGREES, MAX_SHIFT = 15.0, 10.0, 0.1  # shift: of the picture's side


class Draws:
    """Numbers drawn for one clip."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float) -> float:
        """A number between the two."""
        return low + (high - low) * torch.rand((), generator=self._generator, dtype=torch.float64).item()

    def choice(self, count: int) -> int:
        """One of `range(count)`."""
        return int(torch.randint(count, (), generator=self._generator))


class StrongClipDataset(ClipDataset):
    """A ClipDataset that hands out whole resized frames, and augments them on the device; see there."""

    def plan(self, sample: Sample) -> ClipPlan:
        """As ClipDataset, but for the crop: that is made later."""
        return super().plan(sample)._replace(region=Region(0, 0, *self.resize_size))

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, C) of the frames before the crop."""
        return (self.clip_len, *self.resize_size, 3)

    def device_seed(self, sample: Sample) -> int:
        """Of what is drawn for the clip on the device; EVALUATION where nothing is."""
        if not self._random or sample.epoch == EVALUATION:
            return EVALUATION
        return seeded_generator(self._seed, sample.epoch, sample.video, sample.clip, 1).initial_seed()

    def to_inputs(self, clips: Tensor, flips: Tensor, seeds: Tensor) -> Tensor:
        """What the network takes: the batch's clips flipped, augmented and normalised, float32 (B, C, T, H, W)."""
        return normalize(augment(flip(clips, flips), seeds, self.crop_size))


def augment(clips: Tensor, seeds: Tensor, crop_size: tuple[int, int]) -> Tensor:
    """Crops and changes each clip as its seed draws; with the seed EVALUATION it is the centre crop, unchanged.

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
    region = draw_region(draws, *clip.shape[-2:], CROP_SCALE, CROP_RATIO)
    clip = F.resized_crop(clip, *region, size=list(crop_size), antialias=False)
    for _ in range(RANDAUGMENT_OPS):
        change = RANDAUGMENT[draws.choice(len(RANDAUGMENT))]
        clip = change(clip, draws.uniform(-1, 1))
    return erase(jitter(clip, draws), draws).clamp(0, 1)


def draw_region(
    draws: Draws, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """A rectangle of the picture: top, left, height, width. Area by `scale`, width to height by `ratio`, cut to fit."""
    area = height * width * draws.uniform(*scale)
    aspect = math.exp(draws.uniform(math.log(ratio[0]), math.log(ratio[1])))
    region_height = min(max(round(math.sqrt(area / aspect)), 1), height)
    region_width = min(max(round(math.sqrt(area * aspect)), 1), width)
    return (
        *(draws.choice(height - region_height + 1), draws.choice(width - region_width + 1)),
        *(region_height, region_width),
    )


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
    """Sometimes fills a box with the mean colour, the same box in all frames of a clip (T, C, H, W)."""
    is_erased = draws.uniform(0, 1) < ERASE_PROB
    top, left, height, width = draw_region(draws, *clip.shape[-2:], ERASE_SCALE, ERASE_RATIO)
    if not is_erased:
        return clip
    return F.erase(clip, top, left, height, width, clip.new_tensor(MEAN)[:, None, None])


def _as_one_picture(clip: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Applies `change` to all frames of a clip (T, C, H, W) as one picture (C, T H, W)."""
    frames, channels, height, width = clip.shape
    picture = clip.transpose(0, 1).reshape(channels, frames * height, width)
    return change(picture).reshape(channels, frames, height, width).transpose(0, 1)


def _affine(clip: Tensor, turn: float = 0.0, shift: tuple[float, float] = (0, 0), shear: tuple[float, float] = (0, 0)):
    fill = list(MEAN)
    return F.affine(
        *(clip, turn, [round(shift[0] * clip.shape[-1]), round(shift[1] * clip.shape[-2])], 1.0, list(shear)),
        interpolation=F.InterpolationMode.BILINEAR,
        fill=fill,
    )


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
