import argparse
import errno
import os

import pytest
import torch

from network import checkpoint
from network.checkpoint import (
    BEST,
    NEWEST,
    CheckpointError,
    is_legacy,
    load_checkpoint,
    newest_valid_checkpoint,
    plain,
    save_checkpoint,
)


def entry(epoch, value=0.0):
    return {"model": {"fc.weight": torch.full((2, 3), value)}, "epoch": epoch, "classes": ["a", "b"], "args": {}}


def test_newest_and_best_are_names_of_the_epochs_file(tmp_path):
    save_checkpoint(tmp_path, entry(0, 1.0), is_best=True)
    save_checkpoint(tmp_path, entry(1, 2.0), is_best=False)
    assert {path.name for path in tmp_path.iterdir()} == {"model_0.pth", "model_1.pth", NEWEST, BEST}
    assert os.path.samefile(tmp_path / NEWEST, tmp_path / "model_1.pth")
    assert os.path.samefile(tmp_path / BEST, tmp_path / "model_0.pth")
    assert load_checkpoint(tmp_path / NEWEST)["model"]["fc.weight"][0, 0] == 2


def test_without_hard_links_they_are_copies(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    save_checkpoint(tmp_path, entry(0, 3.0), is_best=True)
    assert not os.path.samefile(tmp_path / NEWEST, tmp_path / "model_0.pth")
    assert load_checkpoint(tmp_path / BEST)["model"]["fc.weight"][0, 0] == 3


def test_a_write_that_fails_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, entry(0, 1.0), is_best=True)

    def full_disk(value, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.torch, "save", full_disk)
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(tmp_path, entry(1), is_best=True)
    assert {path.name for path in tmp_path.iterdir()} == {"model_0.pth", NEWEST, BEST}
    monkeypatch.undo()
    assert load_checkpoint(tmp_path / NEWEST)["epoch"] == 0


def test_what_is_no_checkpoint_is_refused(tmp_path):
    whole = save_checkpoint(tmp_path, entry(0), is_best=False).read_bytes()
    cases = {
        "cut.pth": whole[: len(whole) // 2],
        "empty.pth": b"",
        "text.pth": b"not a checkpoint",
        "video.pth": b"RIFF\x00\x00\x00\x00AVI LIST",
        "other.pth": b"K",
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=name):
            load_checkpoint(tmp_path / name)
    for name, value in {
        "list.pth": [1, 2],
        "bare.pth": {"fc.weight": torch.zeros(1)},
        "odd.pth": {"model": {"a": 1}},
        "numbered.pth": {"model": {1: torch.zeros(1)}},
        "none.pth": {"model": {}},
    }.items():
        torch.save(value, tmp_path / name)
        with pytest.raises(CheckpointError, match=f"{name} is not a training checkpoint"):
            load_checkpoint(tmp_path / name)
    with pytest.raises(CheckpointError, match="absent.pth"):
        load_checkpoint(tmp_path / "absent.pth")


def test_the_best_is_there_before_the_newest_that_tells_of_it(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, entry(0, 1.0), is_best=True)
    named, name_also = [], checkpoint._name_also
    monkeypatch.setattr(checkpoint, "_name_also", lambda path, name: (named.append(name.name), name_also(path, name)))
    save_checkpoint(tmp_path, entry(1, 2.0), is_best=True)
    assert named == [BEST, NEWEST]


def test_the_last_resort_of_auto_is_the_best(tmp_path):
    save_checkpoint(tmp_path, entry(0, 1.0), is_best=True)
    save_checkpoint(tmp_path, entry(1, 2.0), is_best=False, keep=1)
    (tmp_path / "model_1.pth").write_bytes(b"damaged, and checkpoint.pth is the same file")
    path, problems = newest_valid_checkpoint(tmp_path)
    assert path == tmp_path / BEST and len(problems) == 2


def test_checkpoints_of_later_epochs_do_not_push_out_the_one_just_written(tmp_path):
    for epoch in (5, 6):
        save_checkpoint(tmp_path, entry(epoch), is_best=False)
    for epoch in (1, 2):  # the run was taken up from an earlier epoch
        save_checkpoint(tmp_path, entry(epoch), is_best=False, keep=1)
    assert {path.name for path in tmp_path.glob("model_*")} == {"model_2.pth", "model_5.pth", "model_6.pth"}


def test_a_namespace_and_names_of_a_wrapper_are_read(tmp_path):
    weights = {"module.fc.weight": torch.ones(1)}
    torch.save({"model": weights, "epoch": 3, "args": argparse.Namespace(lr=0.1)}, tmp_path / "old.pth")
    loaded = load_checkpoint(tmp_path / "old.pth")
    assert is_legacy(loaded) and loaded["args"] == {"lr": 0.1} and list(loaded["model"]) == ["fc.weight"]


def test_plain_values_survive_a_safe_load(tmp_path):
    args = plain({"path": tmp_path, "sizes": (1, 2), "device": torch.device("cpu"), "none": None})
    assert args == {"path": str(tmp_path), "sizes": [1, 2], "device": "cpu", "none": None}
    torch.save(args, tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt", weights_only=True) == args
