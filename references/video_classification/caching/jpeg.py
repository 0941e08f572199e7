"""Encodes and decodes JPEG: by torchvision's operators where it has them, else by Pillow.

Both are libjpeg-turbo with the same settings: a frame gives the same bytes, and these the same pixels, so a cache does
not depend on which of them wrote it. The operators are called directly, since torchvision's functions warn at every
call from 0.29 on, and warnings cannot be silenced in threads. Both packages are imported at the first call: torchvision
takes a second and 160 MB, which a process that only decodes videos or reads raw frames can save.
"""

import io
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from runtime.errors import MissingExtra, require

QUALITY = 95


class Codec(NamedTuple):
    """Both directions."""

    encode: Callable[[Tensor], Tensor]  # uint8 (C, H, W) RGB -> bytes, uint8 (N,)
    decode: Callable[[Tensor], Tensor]  # the inverse; raises RuntimeError for anything but a JPEG


def encode_jpeg(pixels: Tensor) -> Tensor:
    """uint8 (C, H, W) RGB -> bytes, uint8 (N,)."""
    return find_codec().encode(pixels)


def decode_jpeg(data: Tensor) -> Tensor:
    """Bytes, uint8 (N,) -> uint8 (C, H, W) RGB. Raises RuntimeError for anything but a JPEG."""
    return find_codec().decode(data)


@lru_cache
def find_codec() -> Codec:
    """The codec that is installed. Raises MissingExtra where there is none."""
    return torchvision_codec() or pillow_codec()


def torchvision_codec() -> Codec | None:
    """torchvision's operators, None where it has them no more."""
    import torchvision  # noqa: F401, registers them

    image = torch.ops.image
    if not (hasattr(image, "encode_jpeg") and hasattr(image, "decode_jpeg")):
        return None
    unchanged = 0  # colours as they were encoded; no rotation by EXIF, since there is none
    return Codec(
        lambda pixels: image.encode_jpeg(pixels, QUALITY), lambda data: image.decode_jpeg(data, unchanged, False)
    )


def pillow_codec() -> Codec:
    """Pillow's. Raises MissingExtra where it is not installed, or was built with another library."""
    image = require("PIL.Image")
    if not require("PIL.features").check_feature("libjpeg_turbo"):
        raise MissingExtra("this Pillow has no libjpeg-turbo: run pip install --force-reinstall pillow")

    def encode(pixels: Tensor) -> Tensor:
        file = io.BytesIO()
        image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(file, "JPEG", quality=QUALITY)
        return torch.from_numpy(np.frombuffer(file.getbuffer(), np.uint8))

    def decode(data: Tensor) -> Tensor:
        try:
            with image.open(io.BytesIO(data.numpy().data), formats=["JPEG"]) as picture:
                return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        except OSError as error:
            raise RuntimeError(f"not a JPEG: {error}") from error

    return Codec(encode, decode)
