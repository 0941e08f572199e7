import json

import pytest

from network.class_map import check_class_map, read_class_map
from runtime.errors import UserError

CLASSES = ["arm_raises", "jumping_jacks", "squats"]


def write(tmp_path, content):
    path = tmp_path / "class_map.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "content",
    [
        {"0": "arm_raises", "1": "jumping_jacks", "2": "squats"},
        {"squats": 2, "arm_raises": 0, "jumping_jacks": 1},
        {"2": "squats", "1": "jumping jacks", "0": "arm raises"},
        '\ufeff{"arm raises": 0, "jumping jacks": 1, "squats": 2}',
    ],
)
def test_a_map_in_either_direction_is_read(tmp_path, content):
    check_class_map(write(tmp_path, content), CLASSES, "best.pth")


def test_names_may_be_numbers(tmp_path):
    assert read_class_map(write(tmp_path, {"0": "10", "1": "9"})) == ["10", "9"]
    assert read_class_map(write(tmp_path, {"10": 0, "9": 1})) == ["10", "9"]


@pytest.mark.parametrize(
    "content, words",
    [
        ({"0": "arm_raises", "1": "squats", "2": "jumping_jacks"}, "class 1 is 'jumping_jacks' there and 'squats' in"),
        ({"Arm_raises": 0, "jumping_jacks": 1, "squats": 2}, "class 0 is 'arm_raises' there and 'Arm_raises' in"),
        (
            {"0": "arm_raises", "1": "jumping_jacks"},
            "2 classes and best.pth 3: .*class_map.json has no class 2, .*'squats'",
        ),
        (
            {"arm_raises": 0, "jumping_jacks": 1, "squats": 2, "z": 3},
            "4 classes and best.pth 3: best.pth has no class 3",
        ),
    ],
)
def test_the_first_difference_is_named(tmp_path, content, words):
    with pytest.raises(UserError, match=words):
        check_class_map(write(tmp_path, content), CLASSES, "best.pth")


@pytest.mark.parametrize(
    "content, words",
    [
        ("{", "cannot be read as a class map"),
        (["arm_raises", "squats"], "is not a class map"),
        ({}, "is not a class map"),
        (3, "is not a class map"),
        ({"a": "b"}, "is not a class map"),
        ({"a": True}, "is not a class map"),
        ({"a": 0.5}, "is not a class map"),
        ({"0": "a", "2": "b"}, "2 classes, and none of the index 1"),
        ({"a": 1, "b": 2}, "none of the index 0"),
        ({"a": -1, "b": 0}, "none of the index 1"),
        ({"a": 0, "b": 0}, "twice"),
        ('{"a": 0, "a": 1}', "twice"),
        ({"0": "a", "1": "a"}, "twice"),
        ({"0": "a", "00": "b"}, "twice"),
    ],
)
def test_what_is_no_class_map_is_refused(tmp_path, content, words):
    path = write(tmp_path, content)
    with pytest.raises(UserError, match=words) as error:
        read_class_map(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.json cannot be read"):
        read_class_map(tmp_path / "absent.json")
