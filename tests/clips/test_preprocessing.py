import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from torchvision import models
from torchvision.models import video as video_models

from clips.preprocessing import FRAME_SELECTIONS, MEAN, STD, Preprocessing
from videos.frame_selection import FRAME_SELECTORS

SCRIPTS = Path(__file__).parents[2] / "references" / "video_classification"

# As checkpoints hold it.
STORED = {
    "clip_len": 16,
    "frame_rate": 4,
    "frame_selection": "official",
    "candidate_rate": None,
    "resize_size": [128, 171],
    "crop_size": [112, 112],
    "mean": [0.43216, 0.394666, 0.37645],
    "std": [0.22803, 0.22145, 0.216989],
    "pixels": "RGB float in [0, 1], bilinear without antialias, centre crop, then (x - mean) / std",
}


def test_the_defaults_are_the_official_preprocessing():
    assert Preprocessing().plain() == STORED


def test_stored_values_are_read_back():
    assert Preprocessing.from_plain(STORED) == Preprocessing()
    other = Preprocessing(8, 5.5, "motion", 10.0, (64, 80), (56, 48))
    assert Preprocessing.from_plain(other.plain()) == other
    assert other.clip_shape == (3, 8, 56, 48) and other.rule == "motion frames, 8 at 5.5 a second"
    other = replace(other, resize_size=(256,), mean=(0.45, 0.45, 0.45), std=(0.225, 0.225, 0.225))
    assert Preprocessing.from_plain(other.plain()) == other and other.plain()["resize_size"] == [256]
    assert other.frame_size is None and Preprocessing().frame_size == (128, 171)


@pytest.mark.parametrize("name", models.list_models(module=video_models))
def test_each_model_is_fed_as_torchvisions_weights_say(name):
    expected = models.get_model_weights(name).DEFAULT.transforms()
    found = Preprocessing.of_model(name)
    assert list(found.resize_size) == expected.resize_size and list(found.crop_size) == expected.crop_size
    assert list(found.mean) == expected.mean and list(found.std) == expected.std
    assert replace(found, resize_size=(128, 171), crop_size=(112, 112), mean=MEAN, std=STD) == Preprocessing()


def test_the_34_and_what_is_not_known_is_fed_as_the_challenge_says():
    assert Preprocessing.of_model("r2plus1d_34") == Preprocessing.of_model("no such model") == Preprocessing()


def test_differences_are_named():
    mvit = Preprocessing.of_model("mvit_v2_s")
    assert mvit.differences(mvit) == [] and replace(mvit, candidate_rate=8.0).differences(mvit) == []
    assert mvit.differences(Preprocessing()) == [
        "resize_size 256 (shorter side) instead of 128x171",
        "crop_size 224x224 instead of 112x112",
        "mean 0.45 0.45 0.45 instead of 0.43216 0.394666 0.37645",
        "std 0.225 0.225 0.225 instead of 0.22803 0.22145 0.216989",
    ]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"clip_len": None}, "incomplete"),
        ({"frame_rate": "four"}, "incomplete"),
        ({"resize_size": []}, "incomplete"),
        ({"resize_size": [128, 171, 3]}, "incomplete"),
        ({"crop_size": 112}, "incomplete"),
        ({"mean": [0.5, 0.5]}, "incomplete"),
        ({"frame_selection": "random"}, "no frame selection 'random'"),
        ({"mean": [0.5, float("nan"), 0.5]}, "it normalizes by mean"),
        ({"std": [0.5, 0.0, 0.5]}, "it normalizes by mean .* std"),
    ],
)
def test_values_that_cannot_be_used_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        Preprocessing.from_plain({**STORED, **changes})


@pytest.mark.parametrize(
    "name", ["clip_len", "frame_rate", "frame_selection", "resize_size", "crop_size", "mean", "std"]
)
def test_a_missing_value_is_named(name):
    with pytest.raises(ValueError, match=f"incomplete: '{name}'"):
        Preprocessing.from_plain({key: value for key, value in STORED.items() if key != name})


@pytest.mark.parametrize("values", [None, 3, "text", []])
def test_what_is_no_table_of_values_is_refused(values):
    with pytest.raises(ValueError, match="incomplete"):
        Preprocessing.from_plain(values)


def test_the_selections_are_those_that_there_are():
    assert tuple(FRAME_SELECTORS) == FRAME_SELECTIONS


def test_it_is_frozen():
    with pytest.raises(AttributeError):
        Preprocessing().clip_len = 8
    assert replace(Preprocessing(), clip_len=8).clip_len == 8


def test_parsers_can_import_it_without_torch():
    script = "import sys, clips.preprocessing; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=SCRIPTS, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
