"""JPEG by both codecs: the same bytes, the same pixels."""

import hashlib
import io
import subprocess
import sys
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from caching import cache_building, jpeg
from caching.clip_cache import CacheSettings
from caching.jpeg import decode_jpeg, encode_jpeg, find_codec, pillow_codec, torchvision_codec
from helpers.clip_caches import PREPROCESSING, open_cache, read_frames_of
from helpers.template_process import SCRIPTS

torchvision_is_left = pytest.mark.skipif(torchvision_codec() is None, reason="torchvision codes images no more")


@pytest.fixture(params=[pytest.param("torchvision_codec", marks=torchvision_is_left), "pillow_codec"])
def codec(request, monkeypatch):
    """Each of the codecs, as what is found."""
    found = getattr(jpeg, request.param)()
    monkeypatch.setattr(jpeg, "find_codec", lambda: found)


def picture(height=32, width=40):
    """uint8 (C, H, W), smooth as pictures are."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([rows * 8, columns * 6, (rows + columns) * 3]).clamp(max=255).to(torch.uint8)


def digest(values):
    return hashlib.sha256(values.contiguous().numpy().tobytes()).hexdigest()[:16]


def test_another_decoder_sees_the_same_picture(codec):
    data = encode_jpeg(picture())
    with av.open(io.BytesIO(data.numpy().tobytes()), format="jpeg_pipe") as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    found = decode_jpeg(data)
    assert found.shape == (3, 32, 40) and found.dtype == torch.uint8
    # They interpolate colour differently.
    assert np.abs(frame.transpose(2, 0, 1).astype(int) - found.numpy()).max() <= 10
    assert (found.float() - picture()).abs().mean() < 2


def test_bytes_and_pixels_are_those_of_the_first_caches(codec):
    """As torchvision 0.22.1 wrote and read them."""
    data = encode_jpeg(picture())
    assert (len(data), digest(data), digest(decode_jpeg(data))) == (931, "87d73a45a11ff346", "0cf2be29e8acdc78")


@torchvision_is_left
def test_both_codecs_agree_to_the_bit():
    ours, pillows = torchvision_codec(), pillow_codec()
    generator = torch.Generator().manual_seed(0)
    for height, width in ((128, 171), (33, 41), (7, 9), (1, 1)):
        noise = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        for pixels in (noise, picture(height, width)):
            data = ours.encode(pixels)
            assert torch.equal(data, pillows.encode(pixels))
            assert torch.equal(ours.decode(data), pillows.decode(data))


ALONE = """
import sys, warnings
import torch
from caching.jpeg import torchvision_codec
pixels = torch.arange(3 * 32 * 40).remainder(251).to(torch.uint8).view(3, 32, 40)
data = torchvision_codec().encode(pixels)
assert "torchvision" not in sys.modules
import torchvision
warnings.simplefilter("ignore")
assert torch.equal(torchvision.io.encode_jpeg(pixels, 95), data)
assert torch.equal(torchvision.io.decode_jpeg(data), torchvision_codec().decode(data))
"""


@torchvision_is_left
def test_the_operators_need_no_import_of_torchvision_and_do_not_hinder_it():
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=SCRIPTS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_where_the_library_has_another_name_torchvision_is_imported(monkeypatch):
    imported = []
    monkeypatch.setattr(jpeg, "LIBRARIES", "absent*")
    monkeypatch.setattr(jpeg.importlib, "import_module", imported.append)
    jpeg._load_operators()
    assert imported == ["torchvision"]


def test_what_is_no_jpeg_is_an_error(codec):
    with pytest.raises(RuntimeError):
        decode_jpeg(torch.zeros(100, dtype=torch.uint8))
    with pytest.raises(RuntimeError):
        decode_jpeg(encode_jpeg(picture())[:400])


def test_pillow_is_asked_where_torchvision_codes_images_no_more(monkeypatch):
    monkeypatch.setattr(torch.ops, "image", SimpleNamespace(decode_jpeg=None))  # either alone is of no use
    assert torchvision_codec() is None
    pillows = SimpleNamespace()
    monkeypatch.setattr(jpeg, "pillow_codec", lambda: pillows)
    assert find_codec.__wrapped__() is pillows


def test_a_pillow_with_another_library_is_refused(monkeypatch):
    from PIL import features

    monkeypatch.setattr(features, "check_feature", lambda name: name != "libjpeg_turbo")
    with pytest.raises(jpeg.MissingExtra, match="libjpeg-turbo"):
        pillow_codec()


def test_jpeg_entries_of_one_codec_are_read_alike_by_the_other(root, tmp_path, monkeypatch):
    settings = CacheSettings(PREPROCESSING, "jpeg")
    cache = open_cache(root, tmp_path / "cache", settings)
    before = read_frames_of(cache, 0, [0, 7])
    monkeypatch.setattr(jpeg, "find_codec", jpeg.pillow_codec)
    monkeypatch.setattr(cache_building, "build", None)  # nothing is built again
    assert np.array_equal(read_frames_of(open_cache(root, tmp_path / "cache", settings), 0, [0, 7]), before)
