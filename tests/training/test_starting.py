import pytest
import torch

import train
from helpers.small_datasets import SMALL
from network.checkpoint import Checkpoint, CheckpointError
from runtime.signals import ResumeCommand
from training import starting
from training.running import find_start
from training.starting import Start, check_same_start, checkpoint_to_resume, folder_classes


def start(epoch, **changes):
    return Start(["a"], checkpoint=Checkpoint({"fc.weight": torch.ones(1)}, epoch=epoch, **changes))


def as_ranks(monkeypatch, *starts):
    """Has the first process hear of what all have found."""
    places = []
    monkeypatch.setattr(starting, "gather_objects", lambda place: places.append(place) or [place])
    for each in starts:
        check_same_start(each)
    monkeypatch.setattr(starting, "gather_objects", lambda _: places)


def test_processes_that_find_other_checkpoints_are_told_so(monkeypatch):
    as_ranks(monkeypatch, start(2), Start(["a"]))
    with pytest.raises(CheckpointError, match="rank 0: epoch 3, .*; rank 1: none.*--output-dir"):
        check_same_start(start(2))


def test_what_differs_within_an_epoch_is_said(monkeypatch):
    as_ranks(monkeypatch, start(2, clips_seen=8), start(2, clips_seen=16))
    with pytest.raises(CheckpointError, match="rank 0: epoch 3, 8 of its .*; rank 1: epoch 3, 16 of its clips"):
        check_same_start(start(2))


def test_another_run_that_is_as_far_is_another_start(monkeypatch):
    other = Start(["a"], checkpoint=Checkpoint({"fc.weight": torch.zeros(1)}, epoch=2))
    as_ranks(monkeypatch, start(2), other)
    with pytest.raises(CheckpointError, match="rank 0: epoch 3, .* weights .*; rank 1: epoch 3, .* weights "):
        check_same_start(start(2))


def test_processes_that_find_the_same_go_on(monkeypatch):
    as_ranks(monkeypatch, start(2, clips_seen=8), start(2, clips_seen=8))
    check_same_start(start(2))


@pytest.mark.parametrize("further", [[], ["--test-only"]])
def test_auto_reads_the_checkpoint_once(tmp_path, monkeypatch, further):
    (tmp_path / "data" / "train" / "a").mkdir(parents=True)
    (tmp_path / "data" / "train" / "a" / "1.mp4").write_bytes(b"x")
    (tmp_path / "run").mkdir()
    start(2).checkpoint.write(tmp_path / "run" / "checkpoint.pth")
    options = ["--data-path", str(tmp_path / "data"), "--output-dir", str(tmp_path / "run"), "--resume", "auto"]
    read, load = [], torch.load
    monkeypatch.setattr(torch, "load", lambda path, **kwargs: read.append(path) or load(path, **kwargs))
    args = train.get_args_parser().parse_args([*options, *further])
    assert find_start(args, ResumeCommand([])).checkpoint.epoch == 2
    assert read == [tmp_path / "run" / "checkpoint.pth"] and args.resume == str(read[0])


def test_a_named_checkpoint_is_taken_as_it_is(tmp_path):
    Checkpoint({"fc.weight": torch.ones(1)}, epoch=4).write(tmp_path / "a.pth")
    path, checkpoint = checkpoint_to_resume(str(tmp_path / "a.pth"), tmp_path / "elsewhere")
    assert path == tmp_path / "a.pth" and checkpoint.epoch == 4
    assert checkpoint_to_resume("auto", tmp_path / "elsewhere") is None


def test_an_epoch_past_the_last_without_a_checkpoint_is_nothing_to_do(dataset, tmp_path, capsys):
    options = [*SMALL, "--data-path", str(dataset), "--cache-dir", str(tmp_path / "cache"), "--trainable", "fc"]
    options += ["--output-dir", str(tmp_path / "run"), "--epochs", "2", "--start-epoch", "2"]
    assert train.main(options) == 0
    assert "Nothing is left to train" in capsys.readouterr().out and not (tmp_path / "run").exists()


def test_folders_that_are_no_class_are_said_and_classes_without_validation_warned_of(tmp_path, capsys):
    for name in (
        "train/squats/1.mp4",
        "train/lunges/1.mp4",
        "train/@eaDir/1.mp4",
        "val/squats/1.mp4",
        "val/lunges/a.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "train" / "planks").mkdir()
    assert folder_classes(tmp_path, test_only=False) == ["lunges", "squats"]
    out = capsys.readouterr().out
    assert f"{tmp_path / 'train' / '@eaDir'} (a system's), {tmp_path / 'train' / 'planks'} (without a video)" in out
    assert f"WARNING: {tmp_path / 'val'} has no video of 1 classes that are trained: lunges" in out
    assert folder_classes(tmp_path, test_only=True) == ["lunges", "squats"]
    assert "WARNING" not in capsys.readouterr().out
    (tmp_path / "val" / "lunges" / "1.mp4").write_bytes(b"x")
    (tmp_path / "train" / "planks").rmdir()
    folder_classes(tmp_path, test_only=False)
    assert "WARNING" not in capsys.readouterr().out
