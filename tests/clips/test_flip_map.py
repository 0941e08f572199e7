import json

import pytest

from clips.presets import FlipMapError, read_flip_map

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
