import json

import pytest
import torch
from torchvision.transforms.functional import normalize as torchvision_normalize

from clips.preprocessing import MEAN, STD, Preprocessing
from clips.presets import FlipMapError, flip, flippable, normalize, read_flip_map


@pytest.mark.parametrize(
    "name, is_flippable",
    [
        ("left_arm_raise", False),
        ("arm raise RIGHT", False),
        ("lunge-Left-leg", False),
        ("left", False),
        ("punches (left)", False),
        ("lunge,_left,_deep", False),
        ("knee_raise-left", False),
        ("kick.right.", False),
        ("left2", False),
        ("righté", True),
        ("leftover_stretch", True),
        ("bright_lights", True),
        ("upright row", True),
        ("squats", True),
    ],
)
def test_sides_are_words(name, is_flippable):
    assert flippable([name]).tolist() == [is_flippable]


def test_normalize_is_torchvisions():
    clips = torch.randint(0, 256, (2, 3, 8, 9, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = torch.stack([torchvision_normalize(clip.permute(0, 3, 1, 2) / 255, MEAN, STD) for clip in clips])
    expected = expected.permute(0, 2, 1, 3, 4)  # B T C H W -> B C T H W
    for pixels in (clips, clips / 255):
        found = normalize(pixels, Preprocessing())
        assert found.shape == (2, 3, 3, 8, 9) and found.dtype == torch.float32
        assert torch.allclose(found, expected, atol=1e-5)
        assert found.is_contiguous(memory_format=torch.channels_last_3d)  # without a copy
    assert clips.max() > 200  # what was given is left alone


def test_flip_mirrors_whole_clips():
    clips = torch.randint(0, 256, (3, 4, 5, 6, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = flip(clips, torch.tensor([True, False, True]))
    assert torch.equal(found[1], clips[1])
    assert torch.equal(found[0], clips[0].flip(2)) and torch.equal(found[2], clips[2].flip(2))
    assert flip(clips, torch.zeros(3, dtype=torch.bool)) is clips


CLASSES = ["left_arm_raise", "left_lunge", "right_arm_raise", "right_lunge", "squats"]


@pytest.fixture
def write(tmp_path):
    def write_map(content):
        path = tmp_path / "flips.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write_map


@pytest.mark.parametrize(
    "pairs",
    [
        {"left arm raise": "right arm raise"},
        {"right_arm_raise": "left_arm_raise"},
        {"left_arm_raise": "right_arm_raise", "right arm raise": "left arm raise"},
    ],
)
def test_a_pair_works_both_ways_and_the_others_stay(write, pairs):
    assert read_flip_map(write(pairs), CLASSES).tolist() == [2, 1, 0, 3, 4]


@pytest.mark.parametrize(
    "content, words",
    [
        ({"left arm raise": "right arm rise"}, "'right arm rise', which is no class"),
        ({"leftarm": "right_lunge"}, "'leftarm', which is no class"),
        ({"left_lunge": "right_lunge", "squats": "right_lunge"}, "'right_lunge' two mirror images"),
        ('{"left_lunge": "right_lunge", "left_lunge": "squats"}', "'left_lunge' two mirror images"),
        ({"left_lunge": "right_lunge", "right_lunge": "left_arm_raise"}, "two mirror images"),
        ({"squats": "squats"}, "to itself"),
        ({"left_lunge": ["right_lunge"]}, "is not a flip map"),
        (["left_lunge", "right_lunge"], "is not a flip map"),
        ("{left", "cannot be read as a flip map"),
        ("3", "is not a flip map"),
    ],
)
def test_a_map_that_would_make_labels_wrong_is_refused(write, content, words):
    with pytest.raises(FlipMapError, match=words):
        read_flip_map(write(content), CLASSES)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FlipMapError, match="absent.json"):
        read_flip_map(tmp_path / "absent.json", CLASSES)
