"""JPEG by torchvision. A room of its own for two reasons: the functions in `torchvision.io` warn at every call since
0.29, and warnings cannot be silenced in threads; and importing torchvision takes a second and 160 MB, which a process
that only decodes videos or reads raw frames need not spend.
"""

from functools import lru_cache

import torch
from torch import Tensor

QUALITY = 95


def encode_jpeg(pixels: Tensor) -> Tensor:
    """uint8 (C, H, W) RGB -> its bytes, uint8 (N,)."""
    return _operators().encode_jpeg(pixels, QUALITY)


def decode_jpeg(data: Tensor) -> Tensor:
    """Bytes, uint8 (N,) -> uint8 (C, H, W) RGB. Raises RuntimeError on what is not a JPEG."""
    unchanged = 0  # colours as they were encoded; and no turning by EXIF, which there is none of
    return _operators().decode_jpeg(data, unchanged, False)


@lru_cache
def _operators():
    """The operators under torchvision's functions, which its import registers."""
    import torchvision.io  # noqa: F401

    return torch.ops.image
