"""The comparison of recipes: its mistakes are made, and end with their block; its table counts right."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from torch import nn

import compare_recipes
from clips import presets
from compare_recipes import EXERCISES, PRETRAINING, SETTINGS, drifting_batch_norm, table, unguarded_flips
from evaluation.predictions import Prediction
from synthetic.exercises import EXERCISES as KNOWN
from training import engine


def test_exercises_are_new_to_the_network_and_two_pairs_mirror_each_other():
    assert set(EXERCISES) | set(PRETRAINING) <= set(KNOWN) and not set(EXERCISES) & set(PRETRAINING)
    assert (~presets.flippable(EXERCISES)).sum() == 4 and len(SETTINGS) <= 11


def test_mistakes_are_made_inside_their_block_alone():
    network = nn.Sequential(nn.BatchNorm3d(2), nn.BatchNorm3d(2))
    with drifting_batch_norm(), unguarded_flips():
        engine.set_train_mode(network, ["0"])
        assert network[0].training and presets.flippable(["left lunge"]).all()
    engine.set_train_mode(network, ["0"])
    assert not network[0].training and network[1].training and not presets.flippable(["left lunge"]).any()


def test_the_table_pairs_videos_over_the_seeds():
    rng = np.random.default_rng(0)
    labels = np.repeat(["left arm raise", "squats"], 50)
    before, after = rng.random((3, 100)) < 0.5, rng.random((3, 100)) < 0.8
    header, first, second = table(labels, {"a": before, "b": after}).splitlines()
    gains = 100 * (after.mean(0) - before.mean(0))
    low, high = stats.t.interval(0.95, 99, gains.mean(), gains.std(ddof=1) / 10)
    assert f"{gains.mean():+5.1f} ({low:+5.1f} .. {high:+5.1f})" in second
    sided = stats.ttest_ind(gains[:50], gains[50:], equal_var=False).confidence_interval()
    assert f"{gains[:50].mean() - gains[50:].mean():+5.1f} ({sided.low:+5.1f} .. {sided.high:+5.1f})" in second
    assert f"{100 * before.mean():5.1f}" in first and f"{100 * after[:, :50].mean():.1f}" in second
    assert header.startswith("setting") and " - " in first  # nothing is gained over itself


def test_settings_are_flags_of_the_training_script():
    import train

    for setting in SETTINGS.values():
        train.get_args_parser().parse_args(["--data-path", "x", "--model", setting.model, *setting.flags.split()])
    with pytest.raises(SystemExit):
        train.get_args_parser().parse_args(["--data-path", "x", "--no-such-flag"])


def test_the_teacher_is_trained_once_and_teaches_online_or_by_its_logits(tmp_path, monkeypatch):
    """Without any training: what the script is asked to do."""
    asked = []

    def train_or_exit(arguments):
        asked.append(arguments)
        folder = Path(arguments[arguments.index("--output-dir") + 1])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.html").touch()
        if "--save-logits" in arguments:
            Path(arguments[arguments.index("--save-logits") + 1]).touch()

    rows = {
        "a.mp4": Prediction("a.mp4", "squats", "squats", 1.0),
        "b.mp4": Prediction("b.mp4", "lunges", "squats", 1.0),
    }
    monkeypatch.setattr(compare_recipes, "train_or_exit", train_or_exit)
    monkeypatch.setattr(compare_recipes, "read_predictions", lambda folder: rows)
    data = ["--data-path", str(tmp_path / "data"), "--weights", "w18.pth", "--deeper-weights", "w34.pth"]
    data += ["--teacher-model", "r2plus1d_34"]
    settings = ["--baseline", "strong augmentation", "--settings", "fixed logits", "online teacher", "deeper"]
    assert compare_recipes.main([*data, *settings, "--seeds", "0", "1", "--output-dir", str(tmp_path)]) == 0
    teacher = str(tmp_path / "teacher" / "checkpoint.pth")
    trainings = [arguments for arguments in asked if "--test-only" not in arguments]
    assert sum("--seed" in a and a[a.index("--seed") + 1] == "100" for a in trainings) == 1 and len(trainings) == 9
    students = [a for a in trainings if "--distill-alpha" in a]
    flags = [a[-10:] for a in students if "--teacher" in a]
    assert len(students) == 4 and len(flags) == 2 and all(teacher in flag for flag in flags)
    assert sum("--teacher-logits" in a for a in students) == 2
    (written,) = [a for a in asked if "--save-logits" in a]
    assert written[written.index("--eval-split") + 1] == "train" and written[written.index("--resume") + 1] == teacher
    assert all("w18.pth" in a for a in students) and "w34.pth" in written and "r2plus1d_34" in written


def test_runs_of_other_arguments_are_not_taken_for_these(tmp_path, monkeypatch):
    begin = ["--data-path", "data", "--output-dir", str(tmp_path), "--settings", "full fine-tuning", "--seeds", "0"]
    asked = []
    monkeypatch.setattr(compare_recipes, "train_or_exit", asked.append)
    monkeypatch.setattr(compare_recipes, "read_predictions", lambda _: {"a": Prediction("a", "squats", "squats", 1.0)})
    for again in ([], ["--seeds", "1"]):
        assert compare_recipes.main([*begin, *again]) == 0
    del asked[:]
    for other in (["--epochs", "3"], ["--teacher-model", "r2plus1d_34"], ["--data-path", "other"]):
        with pytest.raises(SystemExit, match=f"holds runs with {other[0]} .*choose another"):
            compare_recipes.main([*begin, *other])
    assert not asked
