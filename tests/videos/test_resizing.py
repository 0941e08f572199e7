import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

from videos.resizing import Crop, Region, resize_crop, resized_size, to_uint8

SIZES = [(480, 854), (720, 1280), (854, 480), (121, 161), (128, 171), (60, 40), (1, 1)]
SIZES += [
    (1080, 60),
    (60, 1920),
    (2160, 90),
    (90, 3840),
]  # the axes are resized one by one: one of them suffices


@pytest.fixture
def frame_of():
    generator = np.random.default_rng(0)
    return lambda height, width: generator.integers(0, 256, (height, width, 3), dtype=np.uint8)


def official_pixels(frame, size):
    """As the evaluator does it: float in [0, 1], then bilinear without antialias: float32 (H, W, C)."""
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None] / 255
    return F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=False)[0].permute(1, 2, 0)


@pytest.mark.parametrize("size", SIZES)
def test_float_pixels_are_the_official_ones(frame_of, size):
    threads = torch.get_num_threads()
    torch.set_num_threads(max(threads, 2))  # with one thread torch takes a kernel that differs from its own by 3e-6
    try:
        frame = frame_of(*size)
        expected = official_pixels(frame, (128, 171)).numpy()
        assert np.abs(resize_crop(frame, (128, 171)) / 255 - expected).max() <= 1e-6
        rounded = to_uint8(resize_crop(frame, (128, 171)))
        assert np.abs(rounded - 255 * expected.astype(np.float64)).max() <= 0.5 + 1e-3
    finally:
        torch.set_num_threads(threads)


def test_a_region_is_that_part_of_the_whole(frame_of):
    frame = frame_of(480, 854)
    whole = resize_crop(frame, (128, 171))
    for region in (Region(8, 30, 112, 112), Region(0, 0, 1, 1), Region(16, 59, 112, 112), Region(127, 170, 1, 1)):
        part = whole[region.top : region.top + region.height, region.left : region.left + region.width]
        assert np.array_equal(resize_crop(frame, (128, 171), region), part)


def test_views_with_negative_strides_are_read_right(frame_of):
    frame = frame_of(90, 50)
    turned = frame[::-1, ::-1].transpose(1, 0, 2)
    assert np.array_equal(resize_crop(turned, (20, 30)), resize_crop(np.ascontiguousarray(turned), (20, 30)))


@pytest.mark.parametrize("size", [*SIZES, (333, 500), (500, 333), (224, 225), (255, 257)])
@pytest.mark.parametrize("side", [256, 31])
def test_a_shorter_side_keeps_the_shape_as_torchvision_does(size, side):
    expected = transforms.resize(torch.zeros(1, *size), [side]).shape[1:] if size != (1, 1) else (side, side)
    assert resized_size(size, (side,)) == tuple(expected)
    assert resized_size(size, (128, 171)) == (128, 171)


@pytest.mark.parametrize("size", [(60, 107), (107, 60), (64, 64)])
def test_pixels_of_a_shorter_side_are_torchvisions(frame_of, size):
    frame = frame_of(*size)
    picture = torch.from_numpy(frame).permute(2, 0, 1) / 255
    expected = transforms.center_crop(transforms.resize(picture, [32], antialias=False), [28, 24])
    found = resize_crop(frame, (32,), Crop(28, 24)) / 255
    np.testing.assert_allclose(found, expected.permute(1, 2, 0), atol=2e-6)


def test_a_drawn_crop_reaches_every_place_and_none_beyond():
    draws = [0.0, 0.4999, 0.5, 0.9999]
    assert [Crop(30, 40, (draw, 0)).within((31, 40)).top for draw in draws] == [0, 0, 1, 1]
    assert [Crop(30, 40, (0, draw)).within((30, 43)).left for draw in draws] == [0, 1, 2, 3]
    assert Region(1, 2, 3, 4).within((99, 99)) == Region(1, 2, 3, 4)
