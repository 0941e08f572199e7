import numpy as np
import pytest
import torch
from torch.nn import functional as F

from videos.resizing import Region, resize_crop, to_uint8

SIZES = [(480, 854), (720, 1280), (1080, 1920), (854, 480), (121, 161), (128, 171), (60, 40), (1, 1), (2160, 3840)]


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
