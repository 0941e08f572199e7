"""The files against what a reader computes from them again."""

import csv
import hashlib
import json
from collections import Counter

import pytest
import torch

from evaluation.predictions import read_predictions
from helpers.evaluations import made_up_evaluation, results_of, wilson
from reporting.result_files import Evaluation, write_result_files


def table(path):
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module", params=[(2, 9), (4, 6), (92, 11)], ids=lambda p: f"{p[0]} classes")
def written(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    checkpoint = folder / "model_best.pth"
    checkpoint.write_bytes(b"weights" * 500_000)
    evaluation = made_up_evaluation(*request.param, checkpoint=checkpoint, temperature=1.7, skipped=3)
    write_result_files(folder, evaluation)
    return folder, evaluation


def test_metrics_agree_with_the_predictions(written):
    folder, evaluation = written
    metrics, rows = json.loads((folder / "metrics.json").read_text()), table(folder / "predictions.csv")
    right = sum(row["label"] == row["prediction"] for row in rows)
    in_five = sum(int(row["rank"]) <= 5 for row in rows)
    assert metrics["video_acc1"] == pytest.approx(100 * right / len(rows))
    assert metrics["video_acc1_interval"] == pytest.approx(wilson(right, len(rows)))
    assert metrics["video_acc5"] == pytest.approx(100 * in_five / len(rows))
    assert metrics["video_acc5_interval"] == pytest.approx(wilson(in_five, len(rows)))
    by_class = [[row for row in rows if row["label"] == name] for name in {row["label"] for row in rows}]
    recalls = [sum(row["label"] == row["prediction"] for row in part) / len(part) for part in by_class]
    assert metrics["macro_acc1"] == pytest.approx(100 * sum(recalls) / len(recalls))
    low, high = metrics["macro_acc1_interval"]
    assert 0 <= low <= metrics["macro_acc1"] <= high <= 100
    assert metrics["videos"] == len(rows) == metrics["clips"] and metrics["videos_not_scored"] == 3
    assert metrics["classes"] == len(evaluation.classes) and metrics["classes_with_videos"] == len(by_class)


def test_the_calibration_error_agrees_with_the_predictions(written):
    folder, _ = written
    metrics, rows = json.loads((folder / "metrics.json").read_text()), table(folder / "predictions.csv")
    total = 0.0
    for b in range(metrics["calibration_bins"]):
        low, high = b / metrics["calibration_bins"], (b + 1) / metrics["calibration_bins"]
        inside = [row for row in rows if low < float(row["probability"]) <= high]
        confidence = sum(float(row["probability"]) for row in inside)
        total += abs(confidence - sum(row["label"] == row["prediction"] for row in inside)) / len(rows)
    assert metrics["expected_calibration_error"] == pytest.approx(total, abs=1e-5)
    assert metrics["expected_calibration_error_uncalibrated"] != metrics["expected_calibration_error"]


def test_probabilities_are_those_at_the_temperature(written):
    folder, evaluation = written
    scaled = (evaluation.results.scores.log() / 1.7).softmax(1)
    for row, scores in zip(table(folder / "predictions.csv"), scaled, strict=True):
        assert float(row["probability"]) == pytest.approx(scores.max().item(), abs=1e-6)
        label = evaluation.classes.index(row["label"])
        assert int(row["rank"]) == 1 + sum(score > scores[label] for score in scores)


def test_classes_agree_with_the_predictions(written):
    folder, evaluation = written
    rows = table(folder / "predictions.csv")
    classes = table(folder / "per_class.csv")
    assert [entry["class"] for entry in classes] == evaluation.classes
    for entry in classes:
        own = [row for row in rows if row["label"] == entry["class"]]
        right = sum(row["prediction"] == row["label"] for row in own)
        assert (int(entry["support"]), int(entry["right"])) == (len(own), right)
        if not own:
            assert entry["accuracy"] == entry["low"] == entry["most_frequent_mistake"] == ""
            continue
        assert float(entry["accuracy"]) == pytest.approx(100 * right / len(own), abs=1e-3)
        assert [float(entry["low"]), float(entry["high"])] == pytest.approx(wilson(right, len(own)), abs=1e-3)
        mistakes = Counter(row["prediction"] for row in own if row["prediction"] != row["label"])
        assert mistakes[entry["most_frequent_mistake"]] == max(mistakes.values(), default=0)


def test_the_confusion_matrix_agrees_with_the_predictions(written):
    folder, evaluation = written
    pairs = Counter((row["label"], row["prediction"]) for row in table(folder / "predictions.csv"))
    rows = table(folder / "confusion.csv")
    assert len(rows) == len(evaluation.classes)
    for row in rows:
        name = row.pop("true \\ predicted")
        assert {other: int(count) for other, count in row.items()} == {c: pairs[name, c] for c in evaluation.classes}


def test_the_checkpoint_is_named_by_its_sum(written):
    folder, _ = written
    metrics = json.loads((folder / "metrics.json").read_text())
    digest = hashlib.sha256((folder / "model_best.pth").read_bytes()).hexdigest()
    assert metrics["checkpoint_sha256"] == digest and metrics["checkpoint"].endswith("model_best.pth")
    assert metrics["clip_rule"].startswith("official") and metrics["pixel_path"] == "decoded, float"


def test_outputs_that_are_no_numbers_are_nobodys_prediction(tmp_path):
    scores = torch.tensor([[torch.nan, torch.nan], [0.3, 0.7]], dtype=torch.float64)
    results = results_of(scores, torch.tensor([0, 1]))
    evaluation = Evaluation(results, ["a/1.mp4", "b/2.mp4"], ["a", "b"], "rule", "pixels")
    metrics = write_result_files(tmp_path, evaluation)
    assert metrics["video_acc1"] == 50 and metrics["expected_calibration_error"] == pytest.approx(0.3)
    assert [row["prediction"] for row in table(tmp_path / "predictions.csv")] == ["", "b"]
    assert not read_predictions(tmp_path)["a/1.mp4"].is_right
    assert evaluation.confusion.tolist() == [[0, 0], [0, 1]]
