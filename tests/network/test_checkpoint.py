import argparse
import errno
import os
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
import torch

from clips.preprocessing import Preprocessing
from network import checkpoint
from network.checkpoint import (
    BEST,
    NEWEST,
    AverageState,
    Checkpoint,
    CheckpointError,
    epoch_checkpoints,
    keep_best,
    newest_valid_checkpoint,
    plain,
    read_plain,
    rng_state,
    save_checkpoint,
    set_rng_state,
)


def entry(epoch, value=0.0):
    return Checkpoint({"fc.weight": torch.full((2, 3), value)}, epoch=epoch, classes=["a", "b"], args={})


def test_newest_and_best_are_names_of_the_epochs_file(tmp_path):
    save_checkpoint(tmp_path, entry(0, 1.0), is_best=True)
    save_checkpoint(tmp_path, entry(1, 2.0), is_best=False)
    assert {path.name for path in tmp_path.iterdir()} == {"model_0.pth", "model_1.pth", NEWEST, BEST}
    assert os.path.samefile(tmp_path / NEWEST, tmp_path / "model_1.pth")
    assert os.path.samefile(tmp_path / BEST, tmp_path / "model_0.pth")
    assert Checkpoint.read(tmp_path / NEWEST).model["fc.weight"][0, 0] == 2


def test_without_hard_links_they_are_copies(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    save_checkpoint(tmp_path, entry(0, 3.0), is_best=True)
    assert not os.path.samefile(tmp_path / NEWEST, tmp_path / "model_0.pth")
    assert Checkpoint.read(tmp_path / BEST).model["fc.weight"][0, 0] == 3


def test_a_name_is_given_in_one_step_whatever_lies_about(tmp_path, monkeypatch):
    (tmp_path / f".{NEWEST}.{os.getpid()}.tmp").write_bytes(b"of a killed run with the same process number")
    save_checkpoint(tmp_path, entry(0, 1.0), is_best=False)
    assert {path.name for path in tmp_path.iterdir()} == {"model_0.pth", NEWEST}

    def refused(*_):
        raise OSError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as context:
        context.setattr(os, "link", lambda source, target: Path(target).write_bytes(b"half") and refused())
        context.setattr(checkpoint.shutil, "copyfile", refused)
        with pytest.raises(CheckpointError, match=f"{NEWEST} cannot be written: Permission denied"):
            checkpoint._name_also(tmp_path / "model_0.pth", tmp_path / NEWEST)
    assert {path.name for path in tmp_path.iterdir()} == {"model_0.pth", NEWEST}
    assert Checkpoint.read(tmp_path / NEWEST).epoch == 0


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
    assert Checkpoint.read(tmp_path / NEWEST).epoch == 0


def test_what_torch_says_of_a_full_disk_is_put_in_words(tmp_path, monkeypatch):
    def full_disk(*_):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0\nframe #0: ...")

    monkeypatch.setattr(checkpoint.torch, "save", full_disk)
    with pytest.raises(CheckpointError) as caught:
        entry(0).write(tmp_path / "a.pth")
    place = "[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"
    assert str(caught.value) == f"{tmp_path / 'a.pth'} cannot be written: is the disk full? ({place})"


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
            Checkpoint.read(tmp_path / name)
    for name, value in {
        "list.pth": [1, 2],
        "bare.pth": {"fc.weight": torch.zeros(1)},
        "odd.pth": {"model": {"a": 1}},
        "numbered.pth": {"model": {1: torch.zeros(1)}},
        "none.pth": {"model": {}},
    }.items():
        torch.save(value, tmp_path / name)
        with pytest.raises(CheckpointError, match=f"{name} is not a training checkpoint"):
            Checkpoint.read(tmp_path / name)
    with pytest.raises(CheckpointError, match="absent.pth"):
        Checkpoint.read(tmp_path / "absent.pth")


def test_files_of_torch_that_hold_more_than_values_are_told_apart(tmp_path, monkeypatch):
    """A whole module, a text and a script: each has another way out, or none."""
    torch.save(torch.nn.Linear(1, 1), tmp_path / "module.pth")
    with pytest.raises(CheckpointError, match=r"a torch.nn.modules.linear.Linear: save the state dict alone, by torch"):
        read_plain(tmp_path / "module.pth")
    (tmp_path / "other.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="other.pth cannot be read as a checkpoint: it is another kind of file"):
        read_plain(tmp_path / "other.pth")

    def refused(*_, **__):
        raise RuntimeError("Cannot use ``weights_only=True`` with TorchScript archives passed to ``torch.load``.")

    monkeypatch.setattr(torch, "load", refused)
    with pytest.raises(CheckpointError, match="it is a TorchScript archive: save the network's state dict instead"):
        read_plain(tmp_path / "module.pth")


def test_records_that_are_handed_on_cannot_be_changed():
    for record, name in ((entry(0), "epoch"), (AverageState(1, is_used=True), "updates")):
        with pytest.raises(FrozenInstanceError):
            setattr(record, name, 2)


def test_the_outputs_are_the_rows_of_the_last_entry():
    layers = {"conv.weight": torch.zeros(5, 4), "fc.weight": torch.zeros(3, 4), "fc.bias": torch.zeros(3)}
    assert Checkpoint(layers).num_outputs == 3
    assert Checkpoint({**layers, "bn.num_batches_tracked": torch.tensor(7)}).num_outputs == 0


def test_data_is_seen_whole_only_by_a_run_that_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for args, expected in [
        (None, None),
        ({"data_path": "d"}, None),
        ({"data_path": "d", "train_on_val": False}, None),
        ({"train_on_val": True}, None),  # of another program
        ({"data_path": "d", "train_on_val": True}, tmp_path.resolve() / "d"),
    ]:
        assert replace(entry(0), args=args).seen_data == expected


def test_the_best_is_found_by_its_number_where_its_name_is_gone(tmp_path):
    for epoch, since in ((0, 0), (1, 1), (2, 0)):
        best = 10.0 if epoch < 2 else 20.0
        save_checkpoint(tmp_path, replace(entry(epoch), best_video_acc1=best, epochs_since_best=since), is_best=False)
    for epoch, expected in ((0, 0), (1, 0), (2, 2)):
        (tmp_path / BEST).unlink(missing_ok=True)
        assert keep_best(tmp_path, Checkpoint.read(tmp_path / f"model_{epoch}.pth"), epoch + 1)
        assert os.path.samefile(tmp_path / BEST, tmp_path / f"model_{expected}.pth")


def test_epochs_are_ordered_by_their_number(tmp_path):
    for name in ("model_9.pth", "model_10.pth", "model_0.pth", "model_.pth", "model_-1.pth", "model_10b.pth", BEST):
        (tmp_path / name).touch()
    assert [path.name for path in epoch_checkpoints(tmp_path)] == ["model_10.pth", "model_9.pth", "model_0.pth"]


def test_every_epoch_stays_unless_told_and_so_many_if_told(tmp_path, monkeypatch):
    for epoch in range(4):
        save_checkpoint(tmp_path, entry(epoch), is_best=False)
    assert [path.name for path in epoch_checkpoints(tmp_path)] == [f"model_{epoch}.pth" for epoch in (3, 2, 1, 0)]

    def listed(folder):
        found = epoch_checkpoints(folder)
        (folder / "model_0.pth").unlink()  # somebody tidies up meanwhile
        return found

    monkeypatch.setattr(checkpoint, "epoch_checkpoints", listed)
    assert save_checkpoint(tmp_path, entry(4), is_best=False, keep=2) == tmp_path / "model_4.pth"
    assert [path.name for path in epoch_checkpoints(tmp_path)] == ["model_4.pth", "model_3.pth"]


def test_random_numbers_go_on_where_they_were():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        state = rng_state()
        drawn = torch.rand(4)
        assert not torch.equal(torch.rand(4), drawn)
        set_rng_state(state)
        assert torch.equal(torch.rand(4), drawn)


@pytest.mark.parametrize("cards, restored", [(2, [["a", "b"]]), (1, []), (0, [])])
def test_generators_of_gpus_go_on_where_there_are_as_many(monkeypatch, cards, restored):
    written = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: ["a", "b"])
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", written.append)
    state = rng_state()
    assert state["cuda"] == ["a", "b"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cards > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards or 2)  # a driver that fails
    set_rng_state(state)
    assert written == restored
    assert cards or rng_state()["cuda"] == []


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
    (path, checkpoint), problems = newest_valid_checkpoint(tmp_path)
    assert path == tmp_path / BEST and checkpoint.epoch == 0 and len(problems) == 2


def test_the_best_is_that_of_the_epochs_that_the_run_goes_on_from(tmp_path):
    accuracies = {0: 10.0, 1: 30.0, 2: 20.0, 3: 40.0}
    best = -1.0
    for epoch, accuracy in accuracies.items():
        is_best, best = accuracy > best, max(best, accuracy)
        since = 0 if is_best else 1
        save_checkpoint(tmp_path, replace(entry(epoch), best_video_acc1=best, epochs_since_best=since), is_best)
    assert keep_best(tmp_path, Checkpoint.read(tmp_path / NEWEST), 4) and Checkpoint.read(tmp_path / BEST).epoch == 3
    # Taken up after epoch 2, the best is that of epoch 1.
    assert keep_best(tmp_path, Checkpoint.read(tmp_path / "model_2.pth"), 3)
    assert os.path.samefile(tmp_path / BEST, tmp_path / "model_1.pth")
    # At an epoch before it, or where its file was removed, there is none.
    assert not keep_best(tmp_path, Checkpoint.read(tmp_path / "model_2.pth"), 1)
    for name in ("model_1.pth", BEST):
        (tmp_path / name).unlink()
    assert not keep_best(tmp_path, Checkpoint.read(tmp_path / "model_2.pth"), 3)


def test_checkpoints_of_later_epochs_do_not_push_out_the_one_just_written(tmp_path):
    for epoch in (5, 6):
        save_checkpoint(tmp_path, entry(epoch), is_best=False)
    for epoch in (1, 2):  # the run was taken up from an earlier epoch
        save_checkpoint(tmp_path, entry(epoch), is_best=False, keep=1)
    assert {path.name for path in tmp_path.glob("model_*")} == {"model_2.pth", "model_5.pth", "model_6.pth"}


def test_a_namespace_and_names_of_a_wrapper_are_read(tmp_path):
    weights = {"module.fc.weight": torch.ones(1)}
    torch.save({"model": weights, "epoch": 3, "args": argparse.Namespace(lr=0.1)}, tmp_path / "old.pth")
    loaded = Checkpoint.read(tmp_path / "old.pth")
    assert loaded.is_legacy and loaded.args == {"lr": 0.1} and list(loaded.model) == ["fc.weight"]
    assert loaded.epoch == 3 and loaded.preprocessing is None


def test_the_keys_on_disk_are_what_they_have_always_been(tmp_path):
    """Other tools, and the checkpoints that lie about, know these names."""
    weights, preprocessing = {"fc.weight": torch.ones(1)}, Preprocessing(clip_len=8, candidate_rate=8.0)
    average = AverageState(3, is_used=False, model={"fc.weight": torch.zeros(1)})
    whole = Checkpoint(
        **{"model": weights, "classes": ["a"], "preprocessing": preprocessing, "args": {"lr": 0.1}, "epoch": 2},
        **{"clips_seen": 0, "epoch_totals": [[1.0, 2.0, 3.0]], "best_video_acc1": 50.0, "epochs_since_best": 1},
        **{"world_size": 2, "optimizer": {"state": {}}, "lr_scheduler": {"last_epoch": 4}, "rng": {"cuda": []}},
        **{"layout": "contiguous", "temperature": 1.5, "model_ema": average},
    )
    whole.write(tmp_path / "a.pth")
    content = torch.load(tmp_path / "a.pth", weights_only=True)
    names = "model classes preprocessing args epoch clips_seen epoch_totals best_video_acc1 epochs_since_best"
    names += " world_size optimizer lr_scheduler scaler rng layout temperature model_ema"
    assert content.keys() == set(names.split()) and content["scaler"] is None
    assert content["model_ema"].keys() == {"updates", "is_used", "model"}
    assert content["preprocessing"]["crop_size"] == [112, 112] and content["preprocessing"]["clip_len"] == 8
    assert Checkpoint.read(tmp_path / "a.pth") == whole
    used = replace(whole, training_model=weights, model_ema=AverageState(3, is_used=True), optimizer=None)
    used.write(tmp_path / "b.pth")
    content = torch.load(tmp_path / "b.pth", weights_only=True)
    assert content["model_ema"] == {"updates": 3, "is_used": True} and "scaler" not in content
    assert Checkpoint.read(tmp_path / "b.pth") == used


@pytest.mark.parametrize(
    "change, words",
    [
        ({"epoch": "3"}, "its `epoch` is '3'"),
        ({"optimizer": [1]}, "its `optimizer` is"),
        ({"temperature": float("inf")}, "its temperature is inf"),
        ({"temperature": 0.0}, "its temperature is 0.0, which is not a number above 0"),
        ({"classes": "ab"}, "`classes` are not names"),
        ({"preprocessing": {"clip_len": 4}}, "`preprocessing` is incomplete"),
        ({"preprocessing": 7}, "`preprocessing` is incomplete"),
        ({"model_ema": {"updates": 1}}, "`model_ema` is incomplete"),
        ({"model_ema": {"updates": 1, "is_used": False}}, "`model_ema` is incomplete"),
        ({"model_ema": {"is_used": True, "model": {}}}, "`model_ema` is incomplete"),
        ({"classes": ["a", 1]}, "`classes` are not names"),
        ({"args": 7}, "its `args` is 7"),
    ],
)
def test_a_value_that_cannot_be_is_said_with_its_file(tmp_path, change, words):
    torch.save({"model": {"fc.weight": torch.ones(1)}, **change}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=f"odd.pth: .*{words}"):
        Checkpoint.read(tmp_path / "odd.pth")


@pytest.mark.parametrize("temperature", [1, 0.05, 20.0])
def test_any_temperature_above_0_is_read(tmp_path, temperature):
    torch.save({"model": {"fc.weight": torch.ones(1)}, "temperature": temperature}, tmp_path / "a.pth")
    assert Checkpoint.read(tmp_path / "a.pth").temperature == temperature


def test_plain_values_survive_a_safe_load(tmp_path):
    args = plain({"path": tmp_path, "sizes": (1, 2), "device": torch.device("cpu"), "none": None})
    assert args == {"path": str(tmp_path), "sizes": [1, 2], "device": "cpu", "none": None}
    torch.save(args, tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt", weights_only=True) == args
