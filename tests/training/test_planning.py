"""`train.py --plan`, whose numbers are not looked at here: nothing depends on how fast the machine is."""

import re
import shutil
from types import SimpleNamespace

import pytest
import torch

import train
from helpers.small_datasets import SMALL
from training import estimating, planning


@pytest.fixture
def plan(tmp_path, monkeypatch, capsys):
    """A function from flags and data to (exit code, output, errors) of a plan."""
    monkeypatch.setattr(estimating, "STEP_SECONDS", 0)

    def run(data, *flags, with_steps=False):
        if not with_steps:
            monkeypatch.setattr(estimating, "time_steps", lambda *_: estimating.StepSeconds(1.0, 1.0))
        options = ["--data-path", str(data), "--output-dir", str(tmp_path / "run"), "--workers", "0"]
        code = train.main([*SMALL, "--trainable", "all", *options, *flags, "--plan"])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_plan_that_can_succeed_tells_all_and_writes_nothing(dataset, tmp_path, plan):
    code, out, err = plan(dataset, "--cache-dir", str(tmp_path / "cache"), "--cache-dataset", with_steps=True)
    assert (code, err) == (0, "")
    rows = re.findall(r"^  (\w+) +(\d+) +(\d+)  (.*)$", out, re.MULTILINE)
    assert rows == [
        ("left_raise", "3", "2", "no, it has a side"),
        ("pushups", "3", "2", "yes"),
        ("squats", "3", "2", "yes"),
    ]
    words = " ".join(out.split())
    assert "3 classes, 9 training videos" in words and "15 videos tried, 0 of them unreadable" in words
    assert re.search(r"Time clip cache [\d:]+, an epoch [\d:]+; with 15 epochs [\d:]+ in all", words)
    assert "15 checkpoints" in words and "WARNING" not in words and "Nothing that was tried would stop" in words
    assert not (tmp_path / "cache").exists() and not (tmp_path / "run").exists()


def test_what_would_stop_the_run_is_all_told_at_once(dataset, tmp_path, plan, monkeypatch):
    data = tmp_path / "data"
    shutil.copytree(dataset, data)
    (data / "val" / "lunges").mkdir()
    shutil.copy(data / "val/squats/00000000.mp4", data / "val/lunges/a.mp4")
    (data / "train/squats/broken.mp4").write_bytes(b"no video")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model_0.pth").write_bytes(b"")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    (tmp_path / "file").touch()
    code, out, err = plan(data, "--cache-dataset", "--cache-dir", str(tmp_path / "file" / "x"))
    assert code == 1 and "Traceback" not in err
    words = [" ".join(text.split()) for text in out.split("Trying videos")]
    for early in (
        "PROBLEM classes without a training video",
        "PROBLEM " + str(tmp_path / "run"),
        "PROBLEM --cache-dir",
    ):
        assert early in words[0] and early not in words[1]
    for words in ("lunges", str(data / "train/squats/broken.mp4"), "--overwrite", "1 MB free", "--keep-checkpoints"):
        assert words in err, words
    assert "lunges" in out and "not trained" in out


def test_unreadable_videos_may_be_skipped(dataset, tmp_path, plan):
    data = tmp_path / "data"
    shutil.copytree(dataset, data)
    (data / "train/squats/broken.mp4").write_bytes(b"no video")
    code, out, _ = plan(data, "--skip-unreadable")
    assert code == 0 and "WARNING   1 of the 16 videos tried cannot be read" in out


def test_a_batch_that_does_not_fit_is_a_problem(dataset, plan, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(estimating, "time_steps", full)
    code, _, err = plan(dataset, with_steps=True)
    assert code == 1 and "--batch-size" in err


def test_clips_that_the_network_does_not_take_are_a_problem(dataset, plan):
    code, _, err = plan(dataset, "--trainable", "layer9", with_steps=True)
    assert code == 1 and "layer9" in err and "Traceback" not in err


def test_without_videos_it_says_what_is_expected(tmp_path, plan):
    (tmp_path / "data").mkdir()
    code, _, err = plan(tmp_path / "data")
    assert code == 1 and "expected train/<class>/ and val/<class>/" in err


@pytest.mark.parametrize("flag", ["--test-only", "--cache-only", "--sanity-overfit"])
def test_only_a_training_is_planned(flag, capsys):
    with pytest.raises(SystemExit, match="2"):
        train.main(["--data-path", "x", "--plan", flag])
    assert flag in capsys.readouterr().err


def test_several_processes_plan_nothing(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit, match="2"):
        train.main(["--data-path", "x", "--plan"])
    assert "without torchrun" in capsys.readouterr().err


COUNTS = {"both": (100, 10), "only_train": (9, 0), "only_val": (0, 3), "none": (0, 0)}


def test_classes_in_one_split_and_imbalance():
    (problem,) = planning.class_problems(COUNTS)
    assert "only_val:" in problem and "only_train" not in problem
    no_validation, empty, imbalance = planning.class_warnings(COUNTS, balanced=False)
    assert "only_train:" in no_validation and "none:" in empty
    assert "both has 11 times the training videos of only_train" in imbalance and "--balanced-sampling" in imbalance
    assert len(planning.class_warnings(COUNTS, balanced=True)) == 2
    assert planning.class_problems({"a": (1, 1)}) == planning.class_warnings({"a": (9, 1), "b": (1, 1)}, False) == []


def test_sides_and_what_flips_make_of_them():
    classes = ["Left arm", "Right arm", "left_kick", "plank"]
    assert planning.mirror_names(classes) == {"Left arm": "Right arm", "Right arm": "Left arm", "left_kick": None}
    told = planning.flip_words(classes, None, "basic")
    assert list(told.values()) == ["no, it has a side"] * 3 + ["yes"]
    told = planning.flip_words(classes, [1, 0, 2, 3], "strong")
    assert list(told.values()) == ["as Right arm", "as Left arm", "no, it has a side", "yes"]
    assert set(planning.flip_words(classes, None, "none").values()) == {"no"}
    assert '{"Left arm": "Right arm"}' in planning.flip_map_words(classes)
    assert planning.flip_map_words(["left_kick", "plank"]) is None


@pytest.mark.parametrize("decoding, warned", [(60.0, True), (40.0, False)])
def test_a_run_that_mostly_decodes_is_told_of_the_cache(decoding, warned):
    warnings = planning.time_warnings({"decoding in an epoch": decoding, "epoch": 100.0})
    assert len(warnings) == warned and all("--cache-dataset" in warning for warning in warnings)
