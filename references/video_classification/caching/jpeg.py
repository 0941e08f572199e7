"""Encodes and decodes JPEG by torchvision's operators.

They are called directly, since the functions of `torchvision.io` warn at every call from 0.29 on, and warnings cannot
be silenced in threads. torchvision is imported at the first call: that takes a second and 160 MB, which a process that
only decodes videos or reads raw frames can save.
"""

from functools import lru_cache

import torch
from torch import Tensor

QUALITY = 95


def encode_jpeg(pixels: Tensor) -> Tensor:
    """uint8 (C, H, W) RGB -> bytes, uint8 (N,)."""
    return _operators().encode_jpeg(pixels, QUALITY)


def decode_jpeg(data: Tensor) -> Tensor:
    """Bytes, uint8 (N,) -> uint8 (C, H, W) RGB. Raises RuntimeError for anything but a JPEG."""
    unchanged = 0  # colours as they were encoded; no rotation by EXIF, since there is none
    return _operators().decode_jpeg(data, unchanged, False)


@lru_cache
def _operators():
    """The operators that importing torchvision registers."""
    import torchvision.io  # noqa: F401

    return torch.ops.image
