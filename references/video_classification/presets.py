"""Augmentation and normalisation, on the device, in batches: B T H W C from decoder or cache to B C T H W.

What is random about a clip was drawn with the clip (see `datasets`); here it is only applied.
"""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

MEAN = (0.43216, 0.394666, 0.37645)  # of Kinetics-400, as torchvision's weights expect
STD = (0.22803, 0.22145, 0.216989)

AUGMENTATIONS = ("none", "basic", "strong")
SIDE = re.compile(r"(?:^|[\s_-])(?:left|right)(?:$|[\s_-])", re.IGNORECASE)


def flippable(classes: Sequence[str]) -> Tensor:
    """bool (num_classes,): False where the name holds `left` or `right` as a word, as its mirror image is another."""
    return torch.tensor([SIDE.search(name) is None for name in classes], dtype=torch.bool)


def normalize(clips: Tensor) -> Tensor:
    """uint8, or float in [0, 1], B T H W C -> float32 B C T H W with Kinetics' mean and deviation taken out."""
    scale = 255.0 if clips.dtype == torch.uint8 else 1.0
    mean = torch.tensor(MEAN, device=clips.device)
    std = torch.tensor(STD, device=clips.device)
    return ((clips.float() / scale - mean) / std).permute(0, 4, 1, 2, 3).contiguous()


def flip(clips: Tensor, flips: Tensor) -> Tensor:
    """Mirrors those clips (B T H W C) that `flips`, bool (B,), marks: all frames of a clip, or none."""
    if not flips.any():
        return clips
    return torch.where(flips[:, None, None, None, None], clips.flip(3), clips)
