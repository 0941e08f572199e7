"""What is written of predictions, as other programs read it."""

import csv
import io
import json
import os

import pytest

from deployment.prediction import FORMATTERS, Prediction

PREDICTIONS = [
    Prediction("a, b.mp4", (("dips", 0.75), ("squats", 0.25))),
    Prediction(os.fsdecode(b"x\xff.mp4"), error="Invalid data"),
]


def written(name: str, top_k: int = 2) -> list[str]:
    return list(FORMATTERS[name](iter(PREDICTIONS), [prediction.video for prediction in PREDICTIONS], top_k))


def test_csv():
    rows = list(csv.reader(io.StringIO("\n".join(written("csv", top_k=3)))))
    assert rows[0] == ["video", "label", "probability", "label_2", "probability_2", "label_3", "probability_3", "error"]
    assert rows[1] == ["a, b.mp4", "dips", "0.750000", "squats", "0.250000", "", "", ""]
    assert rows[2] == [r"x\xff.mp4", "", "", "", "", "", "", "Invalid data"]


def test_json():
    first, second = json.loads("\n".join(written("json")))
    assert (first["video"], first["label"], first["probability"], first["error"]) == ("a, b.mp4", "dips", 0.75, None)
    assert first["top"][1] == {"label": "squats", "probability": 0.25}
    assert second == {
        "video": r"x\xff.mp4",
        "label": None,
        "probability": None,
        "top": [],
        "error": "Invalid data",
    }


def test_table():
    assert written("table") == ["a, b.mp4   dips 75.0 %, squats 25.0 %", r"x\xff.mp4  error: Invalid data"]


@pytest.mark.parametrize("name, nothing", [("json", []), ("csv", 1), ("table", 0)])
def test_no_videos(name, nothing):
    lines = list(FORMATTERS[name](iter([]), ["a.mp4"], 1))
    assert json.loads("".join(lines)) == nothing if name == "json" else len(lines) == nothing
