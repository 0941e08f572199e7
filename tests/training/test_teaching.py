"""Teachers that are shown the student's own clips: what they see, what they say, and which are refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import train
from clips.dataset import Batch
from clips.preprocessing import Preprocessing
from helpers.small_datasets import SMALL
from helpers.small_models import CLASSES, legacy_checkpoint, random_network, small_checkpoint
from helpers.training_processes import run
from network.precision import Precision
from network.trained_model import load_trained_model
from runtime.errors import UserError
from training.engine import Trainer
from training.losses import TrainingLoss
from training.mixing import Mixing
from training.targets import TargetMaker, Teachers, read_teachers

SHOWN = Preprocessing(clip_len=8, resize_size=(32, 42), crop_size=(28, 28))
CPU = torch.device("cpu")


def clips(count=2):
    return torch.randn(count, 3, 8, 28, 28, generator=torch.Generator().manual_seed(0))


def test_teachers_are_averaged_as_probabilities_with_columns_by_name(tmp_path):
    first = small_checkpoint(tmp_path / "a.pth")
    other = [CLASSES[2], CLASSES[0], CLASSES[1]]
    network = random_network("r3d_18", 3)
    second = small_checkpoint(tmp_path / "b.pth", "r3d_18", model=network.state_dict(), classes=other)
    teachers = Teachers(read_teachers([first, second], CLASSES, SHOWN), CLASSES, 2.0, Precision.of("off", CPU))
    with torch.no_grad():
        a, b = (load_trained_model(path).network(clips()) for path in (first, second))
    expected = ((a / 2).softmax(1) + (b[:, [1, 2, 0]] / 2).softmax(1)) / 2
    found = teachers(clips())
    torch.testing.assert_close(found, expected)
    logits = torch.randn(2, 3, requires_grad=True)
    targets = TargetMaker(3, teachers=teachers)(clips(), torch.tensor([0, 1]), batch([0, 1]), np.random.default_rng(0))
    TrainingLoss(alpha=0.5, temperature=2.0)(logits, targets[1]).sum().backward()
    assert logits.grad.isfinite().all() and not found.requires_grad


def test_under_amp_teachers_compute_in_its_type_and_answer_in_float32(tmp_path):
    models = read_teachers([small_checkpoint(tmp_path / "a.pth")], CLASSES, SHOWN)
    found = Teachers(models, CLASSES, 1.0, Precision.of("bf16", CPU))(clips())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = models[0].network(clips())
    assert expected.dtype == torch.bfloat16 and found.dtype == torch.float32
    torch.testing.assert_close(found, expected.float().softmax(1), rtol=0, atol=0.02)
    assert (found - Teachers(models, CLASSES, 1.0, Precision.of("off", CPU))(clips())).abs().max() > 0


def batch(labels, flips=None):
    count = len(labels)
    return Batch(torch.empty(count), torch.tensor(labels), torch.arange(count), torch.tensor(flips or [False] * count))


def test_a_teacher_is_shown_the_mixed_clips_and_its_answer_is_not_mixed_again():
    seen = []

    def teachers(shown):
        seen.append(shown)
        return torch.eye(3)

    maker = TargetMaker(3, torch.tensor([1, 0, 2]), Mixing(1.0, 0.0), teachers=teachers)
    pixels = torch.arange(3.0)[:, None, None, None, None].expand(-1, 3, 2, 4, 4)
    mixed, targets, _ = maker(pixels, torch.arange(3), batch([0, 1, 2], [True, False, True]), np.random.default_rng(0))
    assert torch.equal(seen[0], mixed) and not torch.equal(mixed, pixels)
    assert torch.equal(targets.teacher, torch.eye(3)) and not torch.equal(targets.shares, torch.eye(3))


def test_reading_teachers_draws_nothing(tmp_path):
    path = small_checkpoint(tmp_path / "a.pth")
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    read_teachers([path], CLASSES, SHOWN)
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"clip_len": 16}, "clip_len 8 instead of 16"),
        ({"crop_size": (24, 24)}, "crop_size 28x28 instead of 24x24"),
        ({"mean": (0.45, 0.45, 0.45)}, "mean 0.43216 0.394666 0.37645 instead of 0.45 0.45 0.45"),
        ({"resize_size": (32,)}, "resize_size 32x42 instead of 32 \\(shorter side\\)"),
        ({"frame_selection": "uniform"}, "frame_selection official instead of uniform"),
    ],
)
def test_a_teacher_of_other_clips_is_refused_with_the_difference_and_the_way_out(tmp_path, change, words):
    path = small_checkpoint(tmp_path / "a.pth")
    with pytest.raises(UserError, match=words) as error:
        read_teachers([path], CLASSES, replace(SHOWN, **change))
    assert "--teacher-logits" in str(error.value) and str(path) in str(error.value)


def test_a_teacher_of_other_classes_or_of_none_is_refused(tmp_path):
    path = small_checkpoint(tmp_path / "a.pth")
    with pytest.raises(UserError, match="it lacks planks; it also has left lunge"):
        read_teachers([path], [*CLASSES[:2], "planks"], SHOWN)
    legacy = legacy_checkpoint(tmp_path / "old.pth")
    with pytest.raises(UserError, match=r"old\.pth has no class names"):
        read_teachers([legacy], CLASSES, SHOWN)


@pytest.fixture(scope="module")
def teacher(dataset, tmp_path_factory):
    """A checkpoint, whose classes are in another order than the data's."""
    folder = tmp_path_factory.mktemp("teacher")
    preprocessing = Preprocessing(clip_len=4, resize_size=(32, 40), crop_size=(28, 28)).plain()
    classes = ["squats", "left_raise", "pushups"]
    return small_checkpoint(folder / "teacher.pth", classes=classes, preprocessing=preprocessing)


@pytest.fixture
def options(dataset, teacher, tmp_path):
    small = [*SMALL, "--data-path", str(dataset), "--cache-dir", str(tmp_path / "cache"), "--cache-dataset"]
    return [*small, "--epochs", "1", "--teacher", str(teacher), "--output-dir", str(tmp_path / "run")]


MEANS = ["--augment", "strong", "--mixup-alpha", "0.2", "--cutmix-alpha", "1"]
AS_ITS_TEACHER = ["--trainable", "fc", "--distill-alpha", "1", "--lr", "1e-12"]


def losses(folder):
    return [json.loads(line)["train_loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_student_that_is_its_teacher_has_nothing_to_learn(options, teacher, tmp_path):
    """Whatever was drawn, both see it: with fixed logits the loss would not be 0 under augmentation."""
    taught = [*options, *MEANS, *AS_ITS_TEACHER, "--weights", str(teacher)]
    assert train.main(taught) == 0
    assert losses(tmp_path / "run")[0] == pytest.approx(0, abs=1e-6)
    labels = [option for option in taught if option not in ("--teacher", str(teacher), "--weights")]
    labels = [*labels, "--weights", str(teacher), "--output-dir", str(tmp_path / "labels")]
    assert train.main(labels) == 0
    assert losses(tmp_path / "labels")[0] > 0.1


def test_two_processes_are_taught_as_one_is(options, teacher, tmp_path):
    flags = [*MEANS, *AS_ITS_TEACHER, "--weights", str(teacher), "--batch-size", "2", "--workers", "0"]
    code, output = run([*options, *flags], processes=2)
    assert code == 0, output
    assert losses(tmp_path / "run")[0] == pytest.approx(0, abs=1e-6)


def test_the_head_of_the_student_is_drawn_as_without_a_teacher(options, teacher, tmp_path):
    without = [option for option in options if option not in ("--teacher", str(teacher))]
    for name, flags in (("taught", options), ("alone", without)):
        assert train.main([*flags, "--trainable", "fc", "--lr", "1e-12", "--output-dir", str(tmp_path / name)]) == 0
    taught, alone = (torch.load(tmp_path / name / "checkpoint.pth", weights_only=True) for name in ("taught", "alone"))
    torch.testing.assert_close(taught["model"]["fc.weight"], alone["model"]["fc.weight"], rtol=0, atol=1e-6)


def test_a_taught_run_resumes_exactly_from_within_an_epoch(options, tmp_path, monkeypatch):
    recipe = [*MEANS, "--epochs", "2", "--trainable", "layer4", "fc", "--gradient-accumulation", "2", "--model-ema"]
    common = [*options, *recipe, "--batch-size", "2", "--checkpoint-minutes", "0.00001", "--model-ema-decay", "0.8"]
    assert train.main([*common, "--output-dir", str(tmp_path / "whole")]) == 0
    real = Trainer.train_epoch

    def interrupted(*args, after_step, **kwargs):
        def after(*values):
            after_step(*values)
            if kwargs["epoch"] == 1:
                raise KeyboardInterrupt

        return real(*args, after_step=after, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", interrupted)
        assert train.main([*common, "--output-dir", str(tmp_path / "cut")]) == 130
    assert torch.load(tmp_path / "cut" / "checkpoint.pth", weights_only=True)["clips_seen"] == 4
    assert train.main([*common, "--output-dir", str(tmp_path / "cut"), "--resume", "auto"]) == 0
    whole, cut = (torch.load(tmp_path / n / "checkpoint.pth", weights_only=True) for n in ("whole", "cut"))
    for part in ("model", "model_ema", "optimizer"):
        torch.testing.assert_close(cut[part], whole[part], rtol=0, atol=0)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--teacher-logits", "x.npz"], "choose one"),
        (["--cache-features"], "--teacher is shown clips, and with --cache-features there are none"),
        (["--test-only"], "--teacher trains"),
    ],
)
def test_what_cannot_go_with_a_teacher_is_refused(options, flags, words, capsys):
    with pytest.raises(SystemExit) as stop:
        train.main([*options, *flags])
    assert stop.value.code == 2 and words in capsys.readouterr().err


def test_a_teacher_that_cannot_teach_stops_before_the_videos_are_read(options, tmp_path, capsys):
    assert train.main([*options, "--train-crop-size", "24", "24"]) == 1
    assert "crop_size 28x28 instead of 24x24" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists() and not (tmp_path / "run").exists()
