import io

import av
import numpy as np
import pytest
import torch

from caching.jpeg import decode_jpeg, encode_jpeg


def picture():
    """uint8 (C, H, W), smooth as pictures are."""
    rows, columns = torch.meshgrid(torch.arange(32), torch.arange(40), indexing="ij")
    return torch.stack([rows * 8, columns * 6, (rows + columns) * 3]).clamp(max=255).to(torch.uint8)


def test_another_decoder_sees_the_same_picture():
    data = encode_jpeg(picture())
    with av.open(io.BytesIO(data.numpy().tobytes()), format="jpeg_pipe") as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    found = decode_jpeg(data)
    assert found.shape == (3, 32, 40) and found.dtype == torch.uint8
    assert (
        np.abs(frame.transpose(2, 0, 1).astype(int) - found.numpy()).max() <= 10
    )  # they interpolate colour differently
    assert (found.float() - picture()).abs().mean() < 2


def test_what_is_no_jpeg_is_an_error():
    with pytest.raises(RuntimeError):
        decode_jpeg(torch.zeros(100, dtype=torch.uint8))
