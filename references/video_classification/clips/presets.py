"""Normalises and mirrors clips on the device, and knows which classes may be mirrored."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from clips.preprocessing import Preprocessing
from runtime.errors import UserError

AUGMENTATIONS = ("none", "basic", "strong")
SIDE = re.compile(r"(?<![^\W\d_])(?:left|right)(?![^\W\d_])", re.IGNORECASE)  # with no letter before or after it


def flippable(classes: Sequence[str]) -> Tensor:
    """Which classes look the same mirrored, bool (num_classes,): not those with `left` or `right` not inside a word."""
    return torch.tensor([SIDE.search(name) is None for name in classes], dtype=torch.bool)


def normalize(clips: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8, or float in [0, 1], B T H W C -> float32 B C T H W, normalized by the mean and standard deviation.

    The result is a view of B T H W C, which is torch's channels-last memory format.
    """
    scale = 255.0 if clips.dtype == torch.uint8 else 1.0
    # A tensor that is made on a GPU from numbers would make the host wait for it.
    mean, std = (torch.tensor(v).to(clips.device, non_blocking=True) for v in (preprocessing.mean, preprocessing.std))
    return ((clips.float() / scale).sub_(mean).div_(std)).permute(0, 4, 1, 2, 3)


def flip(clips: Tensor, flips: Tensor) -> Tensor:
    """Mirrors the clips (B T H W C) that `flips`, bool (B,) on the CPU, selects: all frames of a clip, or none."""
    if not flips.any():
        return clips
    flips = flips.to(clips.device, non_blocking=True)
    return torch.where(flips[:, None, None, None, None], clips.flip(3), clips)


class FlipMapError(UserError):
    """A flip map that cannot be used; the message says what to change."""


def read_flip_map(path: Path, classes: Sequence[str]) -> Tensor:
    """The class of each class's mirror image, int64 (num_classes,); itself unless the file names another.

    Args:
        path: a JSON object of pairs, such as {"left arm raise": "right arm raise"}, in one direction or both. Names
            are the folders'; a space may stand for `_`.
        classes: their names.

    Raises:
        FlipMapError: the file cannot be read, is not of that form, names an unknown class, or has a class in two pairs.
    """
    try:
        pairs = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=list)
    except (OSError, ValueError) as error:
        raise FlipMapError(f"{path} cannot be read as a flip map: {error}") from error
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) and isinstance(pair[1], str) for pair in pairs):
        raise FlipMapError(f'{path} is not a flip map: expected {{"left arm raise": "right arm raise", ...}}')
    label_of = {name: label for label, name in enumerate(classes)}
    mirrors = list(range(len(classes)))
    for pair in pairs:
        a, b = (label_of.get(name, label_of.get(name.replace(" ", "_"))) for name in pair)
        if a is None or b is None:
            unknown = pair[0] if a is None else pair[1]
            raise FlipMapError(f"{path} names {unknown!r}, which is no class: the classes are {', '.join(classes)}")
        if a == b:
            raise FlipMapError(f"{path} maps {pair[0]!r} to itself: name only classes whose mirror image is another")
        for label, other in ((a, b), (b, a)):
            if mirrors[label] not in (label, other):
                raise FlipMapError(
                    f"{path} gives {classes[label]!r} two mirror images, {classes[mirrors[label]]!r} and "
                    f"{classes[other]!r}: a mirror image works both ways, so each class has one"
                )
            mirrors[label] = other
    return torch.tensor(mirrors)
