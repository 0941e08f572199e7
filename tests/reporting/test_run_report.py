"""What train.py leaves behind, from end to end on small videos."""

import contextlib
import csv
import hashlib
import io
import json
import re
import sys

import pytest
import torch

import train
from helpers.extras import require_extra
from helpers.small_datasets import SMALL

FILES = {"metrics.json", "per_class.csv", "predictions.csv", "confusion.csv", "report.html"}


@pytest.fixture(scope="module")
def calibrated_run(dataset, tmp_path_factory):
    """Two epochs with --calibrate: (folder, arguments); what they printed lies in the folder too."""
    folder = tmp_path_factory.mktemp("run")
    options = [*SMALL, "--data-path", str(dataset), "--cache-dir", str(folder / "cache"), "--cache-dataset"]
    options += ["--output-dir", str(folder / "run")]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert train.main([*options, "--epochs", "2", "--calibrate"]) == 0
    (folder / "run" / "printed.txt").write_text(printed.getvalue())
    return folder / "run", options


def load(path):
    return torch.load(path, weights_only=True)


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def printed_accuracy(text):
    return float(re.findall(r"Video Acc@1 ([\d.]+) Video", text)[-1])


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file()}


def test_a_training_reports_on_its_best_checkpoint(calibrated_run):
    folder, _ = calibrated_run
    assert {path.name for path in folder.iterdir()} >= FILES
    metrics, best = metrics_of(folder), load(folder / "model_best.pth")
    assert metrics["video_acc1"] == pytest.approx(best["best_video_acc1"])
    digest = hashlib.sha256((folder / "model_best.pth").read_bytes()).hexdigest()
    assert metrics["checkpoint_sha256"] == digest and metrics["temperature"] == best["temperature"]
    page = (folder / "report.html").read_text()
    assert "Training steps" in page and "layer4" in page and page.count("<polyline") == 7
    changed, folded = page.split("<h3>This run</h3>")[1].split("<details>")[:2]
    assert ">epochs<" in changed and ">momentum<" not in changed
    assert ">momentum<" in folded and ">epochs<" not in folded


def test_every_checkpoint_has_a_temperature_that_is_a_float(calibrated_run):
    folder, _ = calibrated_run
    for path in folder.glob("*.pth"):
        temperature = load(path)["temperature"]
        assert isinstance(temperature, float) and temperature > 0


def test_test_only_writes_into_a_folder_of_its_own_and_nothing_else(calibrated_run, capsys):
    folder, options = calibrated_run
    before = snapshot(folder)
    assert train.main([*options, "--resume", str(folder / "model_1.pth"), "--test-only", "--clips-per-video", "2"]) == 0
    evaluated = folder / "eval_model_1"
    assert {path.name for path in evaluated.iterdir()} == FILES and snapshot(folder) == before
    metrics = metrics_of(evaluated)
    assert metrics["video_acc1"] == pytest.approx(printed_accuracy(capsys.readouterr().out), abs=1e-3)
    assert (metrics["videos"], metrics["clips"], metrics["clips_per_video"]) == (6, 12, 2)
    assert metrics["temperature"] == load(folder / "model_1.pth")["temperature"]
    with open(evaluated / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["label"] for row in rows} == {"left_raise", "pushups", "squats"}
    assert all(row["clips"] == "2" and row["path"].startswith(row["label"] + "/") for row in rows)


def test_test_only_calibrates_a_copy(calibrated_run, tmp_path, capsys):
    folder, options = calibrated_run
    bare = load(folder / "model_1.pth")
    del bare["temperature"]
    torch.save(bare, tmp_path / "bare.pth")
    options = [*options, "--output-dir", str(tmp_path), "--resume", str(tmp_path / "bare.pth"), "--test-only"]
    assert train.main(options) == 0
    assert metrics_of(tmp_path / "eval_bare")["temperature"] == 1
    assert train.main([*options, "--calibrate"]) == 0
    assert "without" in capsys.readouterr().out
    copy = load(tmp_path / "eval_bare" / "bare_calibrated.pth")
    assert copy["temperature"] == metrics_of(tmp_path / "eval_bare")["temperature"]
    assert copy["temperature"] == pytest.approx(load(folder / "model_1.pth")["temperature"], rel=1e-4)
    assert all(torch.equal(copy["model"][name], value) for name, value in bare["model"].items())
    assert "temperature" not in load(tmp_path / "bare.pth")


@pytest.mark.parametrize("checkpoint", ["the same", "another", "the copy itself"])
def test_an_evaluation_leaves_no_file_of_an_earlier_one(calibrated_run, tmp_path, checkpoint):
    folder, options = calibrated_run
    (tmp_path / "m.pth").write_bytes((folder / "model_1.pth").read_bytes())
    evaluated = tmp_path / "eval_m"
    options = [*options, "--output-dir", str(tmp_path), "--resume", str(tmp_path / "m.pth"), "--test-only"]
    assert train.main([*options, "--calibrate"]) == 0
    (evaluated / "tensorboard").mkdir()
    for name in ("tensorboard/events.out.tfevents.1", "notes.txt"):
        (evaluated / name).touch()
    if checkpoint != "the same":
        (tmp_path / "m.pth").unlink()
    if checkpoint == "the copy itself":
        (tmp_path / "m.pth").symlink_to(evaluated / "m_calibrated.pth")
    elif checkpoint == "another":
        (tmp_path / "m.pth").write_bytes((folder / "model_0.pth").read_bytes())
    assert train.main(options) == 0
    left = {path.name for path in evaluated.rglob("*") if path.is_file()}
    assert left == FILES | {"notes.txt"} | ({"m_calibrated.pth"} if checkpoint != "another" else set())


def test_a_resumed_run_whose_best_epoch_is_past_validates_that_again(calibrated_run, tmp_path, capsys):
    folder, options = calibrated_run
    checkpoint = load(folder / "model_0.pth")
    checkpoint["best_video_acc1"] = 100.0
    (tmp_path / "run").mkdir()
    torch.save(checkpoint, tmp_path / "run" / "model_best.pth")
    options = [*options, "--output-dir", str(tmp_path / "run"), "--resume", str(tmp_path / "run" / "model_best.pth")]
    assert train.main([*options, "--epochs", "2"]) == 0
    assert "the best so far, for the report" in capsys.readouterr().out
    metrics = metrics_of(tmp_path / "run")
    assert metrics["checkpoint"].endswith("model_best.pth") and metrics["temperature"] == checkpoint["temperature"]
    assert metrics["checkpoint_sha256"] == hashlib.sha256((tmp_path / "run/model_best.pth").read_bytes()).hexdigest()


def test_a_temperature_that_cannot_be_is_refused(calibrated_run, tmp_path, capsys):
    folder, options = calibrated_run
    torch.save({**load(folder / "model_1.pth"), "temperature": -1.0}, tmp_path / "bad.pth")
    options = [*options, "--resume", str(tmp_path / "bad.pth"), "--test-only", "--output-dir", str(tmp_path)]
    assert train.main(options) == 1
    assert "bad.pth: its temperature is -1.0" in capsys.readouterr().err


def test_calibrating_weights_that_are_no_checkpoint_is_wrong_usage(dataset, capsys):
    with pytest.raises(SystemExit) as stopped:
        train.main([*SMALL, "--data-path", str(dataset), "--test-only", "--calibrate"])
    assert stopped.value.code == 2 and "--resume" in capsys.readouterr().err


def test_an_evaluation_folder_that_cannot_be_made_stops_before_the_work(calibrated_run, tmp_path, capsys):
    folder, options = calibrated_run
    (tmp_path / "eval_model_1").write_text("")
    options = [*options, "--output-dir", str(tmp_path), "--resume", str(folder / "model_1.pth"), "--test-only"]
    assert train.main(options) == 1
    captured = capsys.readouterr()
    assert "choose another --output-dir" in captured.err and "Acc@1" not in captured.out


def test_tensorboard_without_the_package_stops_before_the_work(dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    options = [*SMALL, "--data-path", str(dataset), "--output-dir", str(tmp_path / "run"), "--tensorboard"]
    assert train.main(options) == 1
    captured = capsys.readouterr()
    assert "references/video_classification/requirements-extras.txt" in captured.err
    assert not (tmp_path / "run").exists() and "Traceback" not in captured.err


def test_tensorboard_writes_events_of_each_epoch(calibrated_run, dataset, tmp_path):
    require_extra("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, options = calibrated_run
    options = [*options, "--output-dir", str(tmp_path / "run"), "--epochs", "2", "--tensorboard"]
    assert train.main(options) == 0
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    found = [event.value for event in events.Scalars("accuracy/validation_video_acc1")]
    assert found == pytest.approx([entry["val_video_acc1"] for entry in log], rel=1e-5)


def test_an_epoch_ends_in_one_line_with_the_best_so_far_and_the_rest_of_the_run(calibrated_run):
    folder, _ = calibrated_run
    lines = re.findall(r"^Epoch: \[\d\] loss .*", (folder / "printed.txt").read_text(), re.MULTILINE)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert len(lines) == len(log) == 2 and lines[1].endswith("eta 0:00:00")
    best = max(entry["val_video_acc1"] for entry in log)
    assert f"val {log[1]['val_video_acc1']:.1f} best {best:.1f}," in lines[1]
