"""JPEG by torchvision. A room of its own for one reason: the functions in `torchvision.io` warn at every call since
0.29, and warnings cannot be silenced in threads; the operators under them do not.
"""

import torch
import torchvision.io  # noqa: F401  registers the operators
from torch import Tensor
from torchvision.io import ImageReadMode

QUALITY = 95


def encode_jpeg(pixels: Tensor) -> Tensor:
    """uint8 (C, H, W) RGB -> its bytes, uint8 (N,)."""
    return torch.ops.image.encode_jpeg(pixels, QUALITY)


def decode_jpeg(data: Tensor) -> Tensor:
    """Bytes, uint8 (N,) -> uint8 (C, H, W) RGB. Raises RuntimeError on what is not a JPEG."""
    return torch.ops.image.decode_jpeg(data, ImageReadMode.RGB.value, False)
