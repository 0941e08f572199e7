"""Encodes and decodes JPEG: by torchvision's operators where it has them, else by Pillow.

Both are libjpeg-turbo with the same settings: a frame gives the same bytes, and these the same pixels, so a cache does
not depend on which of them wrote it. The operators are called directly, since torchvision's functions warn at every
call from 0.29 on, and warnings cannot be silenced in threads. Their library is loaded without torchvision, whose import
takes each worker process a second and 160 MB.
"""

import importlib
import importlib.util
import io
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from runtime.errors import MissingExtra, require

QUALITY = 95
LIBRARIES = "image*.so"  # those of torchvision that hold the operators


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
    image = torch.ops.image
    if not _has_operators():
        _load_operators()
    if not _has_operators():
        return None
    unchanged = 0  # colours as they were encoded; no rotation by EXIF, since there is none
    return Codec(
        lambda pixels: image.encode_jpeg(pixels, QUALITY), lambda data: image.decode_jpeg(data, unchanged, False)
    )


def _has_operators() -> bool:
    return hasattr(torch.ops.image, "encode_jpeg") and hasattr(torch.ops.image, "decode_jpeg")


def _load_operators() -> None:
    package = importlib.util.find_spec("torchvision")
    assert package is not None and package.submodule_search_locations is not None
    libraries = list(Path(package.submodule_search_locations[0]).glob(LIBRARIES))
    if not libraries:
        importlib.import_module("torchvision")  # which knows where they are
    for library in libraries:
        torch.ops.load_library(library)


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
