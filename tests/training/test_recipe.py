"""The recipe's flags through train.py: what they print and refuse; a run with all of them resumes exactly."""

import json

import numpy as np
import pytest
import torch

import train
from helpers.small_datasets import SMALL
from training.engine import Trainer


@pytest.fixture
def options(dataset, tmp_path):
    small = [*SMALL, "--data-path", str(dataset), "--cache-dir", str(tmp_path / "cache"), "--cache-dataset"]
    return [*small, "--epochs", "1", "--trainable", "fc", "--output-dir", str(tmp_path / "run")]


@pytest.fixture
def flip_map(tmp_path):
    path = tmp_path / "flips.json"
    path.write_text('{"left raise": "squats"}')
    return str(path)


def load(path):
    return torch.load(path, weights_only=True)


def test_mixed_strong_training_runs_and_says_what_accuracy_is_against(options, flip_map, tmp_path, capsys):
    recipe = ["--augment", "strong", "--mixup-alpha", "0.2", "--cutmix-alpha", "1", "--flip-map", flip_map]
    assert train.main([*options, *recipe]) == 0
    out = capsys.readouterr().out
    words = " ".join(out.split())
    assert "training accuracy is against the dominant label of mixed clips" in words
    assert "effective batch 4 clips;" in words and "3 steps each, 3 in all" in words
    assert "--mixup-alpha 0.2" in words and "--lr-milestones" not in words


def test_strong_augmentation_does_not_depend_on_the_workers(options, flip_map, tmp_path):
    options = [option for option in options if option != "--cache-dataset"]
    recipe = ["--augment", "strong", "--flip-map", flip_map, "--cutmix-alpha", "1"]
    for workers in ("0", "2"):
        assert train.main([*options, *recipe, "--workers", workers, "--output-dir", str(tmp_path / workers)]) == 0
    logs = [json.loads((tmp_path / workers / "log.jsonl").read_text()) for workers in ("0", "2")]
    assert logs[0]["train_loss"] == logs[1]["train_loss"] and logs[0]["val_loss"] == logs[1]["val_loss"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--augment", "strong"],
        ["--mixup-alpha", "0.2"],
        ["--cutmix-alpha", "1"],
        ["--flip-map", "flips.json"],
    ],
)
def test_what_changes_pixels_is_refused_with_cached_features(options, flags, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        train.main([*options, "--cache-features", *flags])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "--cache-features" in error and flags[0] in error
    assert not (tmp_path / "cache").exists()


def test_a_flip_map_that_names_no_class_stops_before_the_work(options, tmp_path, capsys):
    path = tmp_path / "flips.json"
    path.write_text('{"left raise": "right raise"}')
    assert train.main([*options, "--flip-map", str(path)]) == 1
    error = capsys.readouterr().err
    assert "right raise" in error and str(path) in error and not (tmp_path / "run").exists()


def interrupt(monkeypatch, epoch, step):
    """Has the next run end after so many steps of an epoch, as by ctrl-c."""
    real = Trainer.train_epoch

    def interrupted(*args, after_step, **kwargs):
        steps = iter(range(step, -1, -1))

        def after(*values):
            after_step(*values)
            if kwargs["epoch"] == epoch and next(steps) <= 1:
                raise KeyboardInterrupt

        return real(*args, after_step=after, **kwargs)

    monkeypatch.setattr(Trainer, "train_epoch", interrupted)


def test_a_run_with_every_means_resumes_exactly_from_within_an_epoch(options, flip_map, tmp_path, monkeypatch):
    recipe = ["--epochs", "2", "--trainable", "layer4", "fc", "--augment", "strong", "--flip-map", flip_map]
    recipe += ["--mixup-alpha", "0.2", "--cutmix-alpha", "1", "--balanced-sampling", "--lr-head-mult", "3"]
    recipe += ["--model-ema", "--model-ema-decay", "0.8", "--model-ema-steps", "2", "--bn-recalibrate"]
    common = [*options, *recipe, "--checkpoint-minutes", "0.00001", "--label-smoothing", "0.1"]
    assert train.main([*common, "--output-dir", str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch:
        interrupt(patch, epoch=1, step=2)
        assert train.main([*common, "--output-dir", str(tmp_path / "cut")]) == 130
    assert load(tmp_path / "cut" / "checkpoint.pth")["clips_seen"] == 8
    assert train.main([*common, "--output-dir", str(tmp_path / "cut"), "--resume", "auto"]) == 0
    whole, cut = (load(tmp_path / run / "checkpoint.pth") for run in ("whole", "cut"))
    for part in ("model", "model_ema", "optimizer", "lr_scheduler"):
        torch.testing.assert_close(cut[part], whole[part], rtol=0, atol=0)
    assert ("training_model" in cut) == ("training_model" in whole) and whole["model_ema"]["updates"] == 3
    logs = [(tmp_path / run / "log.jsonl").read_text().splitlines() for run in ("whole", "cut")]
    values = [[{k: v for k, v in json.loads(line).items() if "seconds" not in k} for line in log] for log in logs]
    assert values[0] == values[1] and {"val_video_acc1_weights", "val_video_acc1_average"} <= values[0][0].keys()


def test_the_saved_model_is_the_one_whose_accuracy_was_told(options, tmp_path, capsys):
    assert train.main([*options, "--model-ema", "--lr", "0.1"]) == 0
    entry = json.loads((tmp_path / "run" / "log.jsonl").read_text())
    checkpoint = str(tmp_path / "run" / "checkpoint.pth")
    capsys.readouterr()
    assert train.main([*options, "--test-only", "--resume", checkpoint]) == 0
    out = capsys.readouterr().out
    assert f" * Video Acc@1 {entry['val_video_acc1']:.3f}" in out and f"loss {entry['val_loss']:.4f}" in out


def test_early_stop_counts_epochs_without_a_better_one_also_after_resuming(options, tmp_path, capsys):
    # At this rate nothing changes, so that no epoch is better than the first.
    stopping = [*options, "--epochs", "6", "--early-stop", "2", "--lr", "1e-12"]
    assert train.main(stopping) == 0
    assert "Stopping early" in capsys.readouterr().out
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert len(lines) == 3 and load(tmp_path / "run" / "checkpoint.pth")["epochs_since_best"] == 2
    assert train.main([*stopping, "--resume", "auto"]) == 0
    assert "Stopping early" in capsys.readouterr().out
    assert (tmp_path / "run" / "log.jsonl").read_text().splitlines() == lines


def test_statistics_are_estimated_before_a_validation_that_may_be_the_last(options, capsys):
    stopping = ["--epochs", "6", "--early-stop", "2", "--lr", "1e-12", "--bn-recalibrate"]
    assert train.main([*options, *stopping, "--trainable", "layer4", "fc"]) == 0
    parts = capsys.readouterr().out.split(" * Video Acc@1")
    assert ["estimated again" in part for part in parts[:3]] == [False, False, True] and "Stopping early" in parts[3]


@pytest.fixture(scope="module")
def teacher(dataset, tmp_path_factory):
    """(checkpoint, logits of train/, two clips a video)."""
    folder = tmp_path_factory.mktemp("teacher")
    common = [*SMALL, "--data-path", str(dataset), "--cache-dir", str(folder / "cache"), "--cache-dataset"]
    assert train.main([*common, "--epochs", "1", "--output-dir", str(folder)]) == 0
    checkpoint = folder / "checkpoint.pth"
    write = ["--test-only", "--resume", str(checkpoint), "--eval-split", "train", "--clips-per-video", "2"]
    assert train.main([*common, *write, "--save-logits", str(folder / "t.npz"), "--output-dir", str(folder)]) == 0
    assert (folder / "eval_checkpoint_train" / "metrics.json").exists()
    return checkpoint, folder / "t.npz"


def test_saved_logits_are_those_of_every_clip(teacher, dataset):
    with np.load(teacher[1], allow_pickle=False) as file:
        videos, clips, logits, classes = (file[name] for name in ("videos", "clips", "logits", "classes"))
    assert classes.tolist() == ["left_raise", "pushups", "squats"] and logits.shape == (18, 3)
    expected = {str(path.relative_to(dataset / "train")) for path in dataset.glob("train/*/*.mp4")}
    assert set(zip(videos.tolist(), clips.tolist(), strict=True)) == {
        (name, clip) for name in expected for clip in (0, 1)
    }
    metrics = json.loads((teacher[1].parent / "eval_checkpoint_train" / "metrics.json").read_text())
    labels = [classes.tolist().index(name.split("/")[0]) for name in videos.tolist()]
    assert 100 * (logits.argmax(1) == labels).mean() == pytest.approx(metrics["clip_acc1"])


@pytest.mark.parametrize("further", [[], ["--cache-features"]])
def test_a_student_comes_nearer_to_its_teacher_than_labels_bring_it(options, teacher, dataset, tmp_path, further):
    checkpoint, logits = teacher
    own = [*options, *further, "--augment", "none", "--epochs", "4", "--lr", "0.02", "--weights", str(checkpoint)]
    distilled = ["--teacher-logits", str(logits), "--distill-alpha", "1", "--distill-temperature", "2"]
    losses = []
    for name, flags in (("labels", []), ("teacher", distilled)):
        assert train.main([*own, *flags, "--output-dir", str(tmp_path / name)]) == 0
        losses.append(
            [json.loads(line)["train_loss"] for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        )
    # The student begins as its teacher: what is left is the difference between one clip and the mean of two.
    assert losses[1][0] < 0.5 * losses[0][0]


def test_a_teacher_that_lacks_videos_stops_the_run(options, tmp_path, capsys):
    arrays = {"videos": np.array(["squats/00000000.mp4"]), "logits": np.ones((1, 3))}
    np.savez(tmp_path / "t.npz", **arrays, classes=np.array(["squats", "pushups", "left_raise"]))
    assert train.main([*options, "--teacher-logits", str(tmp_path / "t.npz")]) == 1
    error = capsys.readouterr().err
    assert "lacks 8 of the 9 training videos" in error and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--val-resize-size", "32"], "--val-resize-size 32 43"),
        (["--train-resize-size", "32"], "--train-resize-size 32 43"),
        (["--val-resize-size", "32", "40", "3"], "not 3 values"),
        (["--val-resize-size", "20"], "28 28 does not fit into 20"),
        (["--model", "mvit_v2_s"], "--train-resize-size 256 342"),
        (["--std", "0", "1", "1"], "--std"),
    ],
)
def test_sizes_that_cannot_be_are_refused_with_those_to_give(options, flags, words, capsys):
    model_alone = [*options[:2], *options[options.index("--data-path") :]] if "--model" in flags else options
    with pytest.raises(SystemExit) as stop:
        train.main([*model_alone, *flags])
    assert stop.value.code == 2 and words in capsys.readouterr().err


def test_strong_augmentation_needs_both_sides(options, capsys):
    options = [option for option in options if option != "--cache-dataset"]
    with pytest.raises(SystemExit):
        train.main([*options, "--augment", "strong", "--train-resize-size", "32"])
    error = capsys.readouterr().err
    assert "--augment strong needs frames of one size" in error and "--train-resize-size 32 43" in error


@pytest.mark.parametrize(
    "flags, word",
    [
        (["--save-logits", "x.npz"], "--test-only"),
        (["--eval-split", "train"], "--test-only"),
        (["--test-only", "--teacher-logits", "x.npz"], "--test-only"),
        (["--test-only", "--sanity-overfit"], "--test-only"),
        (
            ["--test-only", "--save-logits", "x", "--val-frame-selection", "official", "uniform"],
            "--val-frame-selection",
        ),
        (["--distill-temperature", "0"], "--distill-temperature"),
        (["--distill-alpha", "1.5"], "--distill-alpha"),
    ],
)
def test_flags_that_would_do_nothing_are_refused(options, flags, word, capsys):
    options = [option for option in options if option != "--cache-dataset"]
    with pytest.raises(SystemExit) as stop:
        train.main([*options, *flags])
    assert stop.value.code == 2 and word in capsys.readouterr().err
