import errno
import signal
from types import SimpleNamespace

import pytest
import torch

from network.checkpoint import Checkpoint
from runtime.errors import CutShort
from runtime.signals import ResumeCommand, Stopped, StopRequest
from training import saving
from training.saving import RunProgress, RunSaver

STATE = Checkpoint({"fc.weight": torch.ones(1)}, classes=["a"])


def saver(folder, progress=None, minutes=0.0, keep=None):
    """(saver, the signals it looks at, the command it tells)."""
    stop, command = StopRequest(), ResumeCommand(["train.py"])
    return (
        RunSaver(folder, progress or RunProgress(), lambda: STATE, stop, command, minutes=minutes, keep=keep),
        stop,
        command,
    )


def test_progress_survives_a_checkpoint():
    progress = RunProgress(3, 8, [[1.0, 2.0, 3.0]], 62.5, 2, epoch_order="a", best_videos="b")
    checkpoint = progress.added_to(STATE)
    assert (checkpoint.epoch, checkpoint.world_size, checkpoint.classes) == (2, 1, ["a"])
    assert RunProgress.of(checkpoint) == progress
    assert RunProgress.of(STATE) == RunProgress() and RunProgress.of(Checkpoint({}, epoch=4)) == RunProgress(5)


def test_a_run_that_begins_has_seen_nothing():
    checkpoint = RunProgress().added_to(STATE)
    assert (checkpoint.epoch, checkpoint.clips_seen, checkpoint.epoch_totals) == (-1, 0, [])
    assert (checkpoint.best_video_acc1, checkpoint.epochs_since_best) == (-1.0, 0)  # as files on disk have it


def test_sums_of_as_many_processes_are_their_own_and_of_others_rank_0s(monkeypatch):
    progress = RunProgress(totals=[[1.0, 2.0], [10.0, 20.0]])
    for rank, alike, other in ((0, [1.0, 2.0], [11.0, 22.0]), (1, [10.0, 20.0], None)):
        monkeypatch.setattr(saving, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(saving, "is_main", lambda rank=rank: rank == 0)
        for processes, expected in ((2, alike), (3, other)):
            monkeypatch.setattr(saving, "world_size", lambda processes=processes: processes)
            assert progress.own_totals() == expected
    assert RunProgress().own_totals() is None


def test_a_step_is_saved_only_when_it_is_time_to(tmp_path):
    never, _, command = saver(tmp_path / "a")
    never.after_step(4, lambda: pytest.fail("nothing is to be saved"))
    assert never.progress.clips_seen == 4 and not (tmp_path / "a").exists() and not command.has_saved
    always, _, command = saver(tmp_path / "b", minutes=1e-9)
    always.after_step(4, lambda: [1.0, 2.0, 4.0])
    saved = Checkpoint.read(tmp_path / "b" / "checkpoint.pth")
    assert (saved.epoch, saved.clips_seen, saved.epoch_totals) == (-1, 4, [[1.0, 2.0, 4.0]]) and command.has_saved


def test_minutes_pass_between_two_checkpoints(tmp_path, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(saving, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(saving, "world_size", lambda: 3)  # each process has its own `clips`
    run, _, _ = saver(tmp_path, minutes=2.0)
    saved = []
    for clock[0] in (1001.0, 1119.0, 1120.0, 1121.0, 1239.0, 1241.0, 1242.0):
        run.after_step(4, lambda: [1.0])
        written = tmp_path / "checkpoint.pth"
        saved.append(Checkpoint.read(written).clips_seen if written.exists() else None)
    assert saved == [None, None, 36, 36, 36, 72, 72]


def test_a_signal_saves_the_step_and_stops(tmp_path):
    run, stop, command = saver(tmp_path)
    stop.signal_number = 15
    with pytest.raises(Stopped, match="SIGTERM, the run is saved"):
        run.after_step(2, lambda: [1.0, 1.0, 2.0])
    assert Checkpoint.read(tmp_path / "checkpoint.pth").clips_seen == 2 and command.has_saved


def test_a_full_disk_cuts_the_run_short(tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    run, _, command = saver(tmp_path, minutes=1e-9)
    monkeypatch.setattr(torch, "save", full_disk)
    for save in (lambda: run.after_step(2, lambda: [1.0, 1.0, 2.0]), lambda: run.after_epoch(50.0)):
        with pytest.raises(CutShort, match="cannot be written: No space left on device. Make room"):
            save()
    assert not command.has_saved and not list(tmp_path.iterdir())


def test_an_epoch_counts_from_the_best(tmp_path):
    run, _, _ = saver(tmp_path, keep=1)
    for accuracy in (50.0, 40.0, 50.0):
        run.progress.clips_seen = 7
        run.after_epoch(accuracy, temperature=1.5)
    assert (run.progress.epoch, run.progress.clips_seen) == (3, 0)
    assert (run.progress.best_video_acc1, run.progress.epochs_since_best) == (50.0, 2)
    assert Checkpoint.read(tmp_path / "model_best.pth").epoch == 0  # one that is as good is not better
    assert Checkpoint.read(tmp_path / "checkpoint.pth").temperature == 1.5
    assert {path.name for path in tmp_path.iterdir()} == {"model_2.pth", "checkpoint.pth", "model_best.pth"}


def test_the_best_is_of_the_videos_that_it_was_chosen_on(tmp_path):
    run, _, _ = saver(tmp_path, RunProgress(best_video_acc1=50.0, val_videos="now", best_videos="then"))
    for accuracy, expected in ((40.0, "then"), (60.0, "now")):
        run.after_epoch(accuracy)
        assert Checkpoint.read(tmp_path / "checkpoint.pth").best_videos == expected


def test_an_epoch_is_saved_before_it_is_validated_and_a_stop_then_needs_no_more(tmp_path):
    run, stop, command = saver(tmp_path)
    run.after_step(4, lambda: [1.0, 2.0, 4.0])
    with run.validating():
        saved = Checkpoint.read(tmp_path / "checkpoint.pth")
        assert (saved.epoch, saved.clips_seen, saved.epoch_totals) == (-1, 4, [[1.0, 2.0, 4.0]]) and command.has_saved
    with pytest.raises(Stopped, match="the run is saved"), stop, run.validating():
        signal.raise_signal(signal.SIGTERM)
    signal_number, stop.signal_number = stop.signal_number, 10
    with pytest.raises(Stopped), run.validating():
        pytest.fail("it had been asked to stop before")
    assert signal_number == 15
