"""Runs that are killed, stopped, or out of space go on to the very end that they would have had."""

import json
import os
import random
import shlex
import signal
import time
from dataclasses import replace

import pytest
import torch

import train
from helpers.small_datasets import SMALL, make_dataset
from helpers.template_process import Run
from helpers.training_processes import TRAIN, run, start
from network.checkpoint import Checkpoint
from runtime import signals
from runtime.signals import HeldSignals, ResumeCommand, Stopped, StopRequest
from training import loop, recipe, running, starting
from training.engine import Trainer

LIVE = ("seconds", "data_seconds", "val_seconds", "val_data_seconds")


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Two epochs of six steps, saved every few steps."""
    folder = tmp_path_factory.mktemp("interruption")
    root = make_dataset(folder / "data", ["pushups", "squats"], num_train=6, num_val=1)
    small = [*SMALL, "--workers", "1", "--batch-size", "2", "--epochs", "2", "--use-deterministic-algorithms"]
    small += ["--checkpoint-minutes", "0.005", "--lr", "1e-3"]
    return [*small, "--data-path", str(root), "--cache-dir", str(folder / "cache"), "--cache-dataset"]


@pytest.fixture(scope="module")
def whole(options, tmp_path_factory):
    """The end of a run never interrupted, and how long it took."""
    folder = tmp_path_factory.mktemp("whole")
    begin = time.monotonic()
    code, output = run([*options, "--output-dir", str(folder)])
    assert code == 0, output
    return end_of(folder), time.monotonic() - begin


def end_of(folder):
    """(weights and optimiser state, log without times)."""
    checkpoint = torch.load(folder / "checkpoint.pth", weights_only=True)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return checkpoint, [{name: line[name] for name in line if name not in LIVE} for line in lines]


def assert_same_end(found, expected):
    (checkpoint, log), (expected_checkpoint, expected_log) = found, expected
    assert log == expected_log
    assert checkpoint["lr_scheduler"] == expected_checkpoint["lr_scheduler"]
    for part in ("model", "optimizer"):
        torch.testing.assert_close(checkpoint[part], expected_checkpoint[part], rtol=0, atol=0)


def kill_and_resume(options, whole, folder, kills, seed):
    expected, seconds = whole
    draw = random.Random(seed)
    command = [*options, "--output-dir", str(folder), "--resume", "auto"]
    for _ in range(kills):
        process = Run([TRAIN, *command])
        time.sleep(draw.uniform(0.1, 1.0) * seconds)
        process.kill()
    code, output = run(command)
    assert code == 0, output
    if "Nothing is left to train" not in output:
        assert "--resume auto" in output
    assert_same_end(end_of(folder), expected)
    assert not [path for path in folder.glob(".*") if path.suffix == ".pth"]


def test_killed_twice_the_end_is_the_same(options, whole, tmp_path):
    kill_and_resume(options, whole, tmp_path, kills=2, seed=0)


@pytest.mark.slow
def test_killed_ten_times_the_end_is_the_same(options, whole, tmp_path):
    kill_and_resume(options, whole, tmp_path, kills=10, seed=1)


@pytest.mark.parametrize("name, code", [("SIGTERM", 143), pytest.param("SIGUSR1", 138, marks=pytest.mark.slow)])
def test_a_signal_saves_at_the_next_step_and_the_printed_command_goes_on(options, whole, tmp_path, name, code):
    command = [*options, "--output-dir", str(tmp_path), "--checkpoint-minutes", "0", "--print-freq", "1"]
    output = []
    with start(command) as process:
        for line in process.stdout:
            output.append(line)
            if line.startswith("Epoch: [0]  [2/"):
                process.send_signal(getattr(signal, name))
    assert process.returncode == code, "".join(output)
    saved = torch.load(tmp_path / "checkpoint.pth", weights_only=True)
    # Within the first epoch; where this test was slow to send it, in the validation of it.
    assert saved["epoch"] == -1 and saved["clips_seen"] >= 4
    words = shlex.split(output[-1].split("Continue with: ")[1])
    assert words[0] == "python" and words[1].endswith("train.py")
    assert run(words[2:])[0] == 0
    assert_same_end(end_of(tmp_path), whole[0])


def test_a_full_disk_leaves_the_last_checkpoint_whole(options, tmp_path):
    command = [*options, "--output-dir", str(tmp_path), "--checkpoint-minutes", "0"]
    assert run([*command, "--epochs", "1"])[0] == 0
    limit = 1 << 20  # no file may grow beyond this: the write fails in the middle
    for flags in (["--resume", "auto"], ["--output-dir", str(tmp_path / "new")]):
        code, output = run([*command, *flags], file_limit=limit)
        assert code == 1 and "cannot be written" in output and "Traceback" not in output, output
        told = shlex.split(output.split("Make room. Continue with: ")[1])
        assert told[2:] == [*command, *flags]  # nothing was saved by this run: it begins as it did
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob(".*.tmp"))
    assert torch.load(tmp_path / "checkpoint.pth", weights_only=True)["epoch"] == 0


def test_a_truncated_checkpoint_is_said_and_the_one_before_taken(options, tmp_path):
    command = [*options, "--output-dir", str(tmp_path), "--checkpoint-minutes", "0"]
    assert run([*command, "--epochs", "1"])[0] == 0
    newest = tmp_path / "checkpoint.pth"
    content = newest.read_bytes()
    newest.unlink()  # a hard link of the epoch's file, which stays whole
    newest.write_bytes(content[: len(content) // 2])
    code, output = run([*command, "--resume", "auto"])
    assert code == 0 and "checkpoint.pth cannot be read" in output and "model_0.pth" in output, output


def test_a_report_that_a_stop_left_out_is_made_up_for(options, tmp_path):
    command = [*options, "--epochs", "1", "--output-dir", str(tmp_path), "--resume", "auto"]
    assert run(command)[0] == 0
    (tmp_path / "report.html").unlink()
    for again in (True, False):
        code, output = run(command)
        assert code == 0 and "Nothing is left to train" in output and ("Report: " in output) == again, output
    assert (tmp_path / "report.html").is_file()


def test_the_report_of_a_run_that_was_extended_and_stopped_is_made_up_for(options, tmp_path, monkeypatch, capsys):
    command = [*options, "--output-dir", str(tmp_path), "--checkpoint-minutes", "0", "--resume", "auto"]
    assert run([*command, "--epochs", "1"])[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(loop, "report_best", stopped)
        assert train.main(command) == 138
    code, output = run(command_told(capsys))
    assert code == 0 and "Nothing is left to train" in output and "Report: " in output, output
    assert (tmp_path / "report.html").stat().st_mtime_ns >= (tmp_path / "log.jsonl").stat().st_mtime_ns


def test_a_run_that_branches_off_reports_on_its_own_epochs(options, tmp_path):
    """From an earlier epoch of a run whose best comes later, into another folder and within its own."""
    old, new = tmp_path / "old", tmp_path / "new"
    assert run([*options, "--output-dir", str(old), "--checkpoint-minutes", "0"])[0] == 0
    for epoch, best in ((0, 100.0), (1, 200.0)):  # which no epoch can beat
        path = old / f"model_{epoch}.pth"
        replace(Checkpoint.read(path), best_video_acc1=best, epochs_since_best=0).write(path)
    for name in ("model_best.pth", "checkpoint.pth"):
        (old / name).unlink()
        (old / name).hardlink_to(old / "model_1.pth")
    branch = [*options, "--resume", str(old / "model_0.pth"), "--checkpoint-minutes", "0"]
    code, output = run([*branch, "--output-dir", str(new)])
    assert code == 0 and "the best is counted from epoch 1" in output, output
    assert json.loads((new / "metrics.json").read_text())["checkpoint"] == str(new / "model_best.pth")
    assert os.path.samefile(new / "model_best.pth", new / "model_1.pth")
    code, output = run([*branch, "--output-dir", str(old)])
    assert code == 0, output
    assert os.path.samefile(old / "model_best.pth", old / "model_0.pth")


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_videos(options, tmp_path):
    code, output = run([*options, "--output-dir", str(tmp_path), "--lr", "1e30", "--opt", "sgd"])
    assert code == 1 and "the loss is" in output and "Traceback" not in output, output
    (listing,) = tmp_path.glob("non_finite_loss_rank0.json")
    batch = json.loads(listing.read_text())
    assert len(batch["videos"]) == 2 and all(name.endswith(".mp4") for name in batch["videos"])
    assert batch["epoch"] == 0 and str(batch["step"]) in output


def stopped(*_, **__):
    signal.raise_signal(signal.SIGUSR1)


def command_told(capsys):
    """The arguments of the command that was printed last, without script."""
    told = capsys.readouterr().out.splitlines()[-1]
    assert told.startswith("stopped by SIGUSR1") and ". Continue with: python " in told
    return shlex.split(told.split("Continue with: ")[1])[2:]


@pytest.mark.parametrize("further", [[], ["--overwrite"], ["--resume", "auto"], ["--start-epoch", "1"]])
def test_a_signal_before_the_first_step_ends_the_run_at_once(options, tmp_path, monkeypatch, capsys, further):
    command = [*options, "--output-dir", str(tmp_path), *further]
    monkeypatch.setattr(recipe, "load_clips", stopped)
    assert train.main(command) == 138
    assert command_told(capsys) == command  # nothing is saved: it begins as it did
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def checkpoint_of(options, folder):
    """Of one epoch, in a folder of its own."""
    assert run([*options, "--output-dir", str(folder), "--epochs", "1"])[0] == 0
    return folder / "checkpoint.pth"


def test_what_continues_is_this_run_and_not_one_that_it_begins_from_or_overwrites(
    options, tmp_path, monkeypatch, capsys
):
    other, old = checkpoint_of(options, tmp_path / "other"), tmp_path / "old"
    old.mkdir()
    (old / "checkpoint.pth").write_text("of another run")
    for number, flags in enumerate(
        (
            ["--overwrite", "--output-dir", str(old)],
            ["--resume", str(other), "--output-dir", str(tmp_path / "new")],
            ["--resume", str(other), "--output-dir", str(tmp_path / "new"), "--test-only"],
            ["--cache-only"],
        )
    ):
        command = [*options, *flags, "--checkpoint-minutes", "0"]
        with monkeypatch.context() as patch:
            # As late as nothing is saved: in the first epoch, after the folder was made, and in validation.
            patch.setattr(Trainer, "train_epoch", lambda *_, **__: stopped_in_one_step())
            patch.setattr(running, "validate_selections", stopped)
            patch.setattr(running, "open_splits", stopped if number == 3 else running.open_splits)
            assert train.main(command) == 138
        assert command_told(capsys) == command


def stopped_in_one_step():
    signal.raise_signal(signal.SIGUSR1)  # noted, not yet raised
    raise Stopped(signal.SIGUSR1, is_saved=False)


def test_once_a_run_has_saved_it_continues_from_there(options, tmp_path, monkeypatch, capsys):
    other = checkpoint_of(options, tmp_path / "other")
    real = Trainer.train_epoch

    def train_epoch(*args, **kwargs):
        if kwargs["epoch"] == 1:
            stopped()
        return real(*args, **kwargs)

    for flags, kept in (
        (["--output-dir", str(other.parent), "--overwrite"], ["--output-dir", str(other.parent)]),
        (
            ["--resume", str(other), "--start-epoch", "0", "--output-dir", str(tmp_path / "new")],
            ["--output-dir", str(tmp_path / "new")],
        ),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "train_epoch", train_epoch)
            assert train.main([*options, *flags]) == 138
        assert command_told(capsys) == [*options, *kept, "--resume", "auto"]
    # Interrupted after the last epoch, while the report is made:
    command = [*options, "--epochs", "1", "--overwrite", "--output-dir", str(other.parent)]
    monkeypatch.setattr(loop, "report_best", stopped)
    assert train.main(command) == 138
    assert "--overwrite" not in (told := command_told(capsys)) and told[-2:] == ["--resume", "auto"]


def test_a_run_that_torchrun_started_again_is_continued_by_its_command(options, tmp_path, monkeypatch, capsys):
    command = [*options, "--output-dir", str(tmp_path)]
    newest = checkpoint_of(options, tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setattr(starting, "launch_ids", lambda: ["this launch"])
    monkeypatch.setattr(recipe, "load_clips", stopped)
    begin = [*command, "--overwrite"]
    for written_by, told in (None, begin), (["another"], begin), (["this launch"], [*command, "--resume", "auto"]):
        replace(Checkpoint.read(newest), launch=written_by).write(newest)
        assert train.main(begin) == 138
        assert command_told(capsys) == told


def test_ctrl_c_tells_the_same_command(options, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    command = [*options, "--output-dir", str(tmp_path), "--overwrite"]
    monkeypatch.setattr(recipe, "load_clips", interrupted)
    assert train.main(command) == 130
    assert shlex.split(capsys.readouterr().err.splitlines()[-1].split("Continue with: ")[1])[2:] == command


def test_the_signals_are_noted_and_given_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal_number == signal.SIGUSR1
    assert signal.getsignal(signal.SIGTERM) is before


def resume_command(argv, has_saved=True):
    command = ResumeCommand(argv)
    command.has_saved = has_saved
    return str(command)


def test_the_resume_command_is_what_a_user_types():
    argv = ["train.py", "--data-path", "my data", "--overwrite"]
    assert resume_command(argv) == "python train.py --data-path 'my data' --resume auto"
    assert resume_command(argv, has_saved=False) == "python train.py --data-path 'my data' --overwrite"
    assert resume_command(["train.py", "--resume", "a.pth", "-b", "3"]) == "python train.py -b 3 --resume auto"
    # The epoch to begin with has been begun with: again it would throw away what was done since.
    assert resume_command(["train.py", "--start-epoch", "2", "--resume=a"]) == "python train.py --resume auto"
    twice = ["train.py", "--resume", "a", "--start-epoch=1", "--resume", "b"]
    assert resume_command(twice) == "python train.py --resume auto"


@pytest.mark.parametrize("has_saved", [True, False])
@pytest.mark.parametrize(
    "processes, here, launcher",
    [
        ("4", "4", "torchrun --nproc_per_node=4"),
        ("16", "8", "torchrun --nnodes=2 --rdzv_backend=c10d --rdzv_endpoint=HOST:PORT --nproc_per_node=8"),
    ],
)
def test_the_resume_command_starts_as_many_processes(monkeypatch, processes, here, launcher, has_saved):
    monkeypatch.setenv("WORLD_SIZE", processes)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
    assert resume_command(["train.py"], has_saved) == f"{launcher} train.py" + " --resume auto" * has_saved
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    assert resume_command(["train.py"], False) == f"{launcher} --max-restarts=3 train.py"


@pytest.mark.parametrize("seconds, finishes", [(600.0, True), (-1.0, False)])
def test_a_stop_that_is_sent_twice_is_one(monkeypatch, seconds, finishes):
    """Slurm and torchrun both send it: what is saved on the way out is saved. Much later it is another."""
    monkeypatch.setattr(signals, "SAME_STOP_SECONDS", seconds)
    saved = []
    with pytest.raises(Stopped, match="SIGTERM"), StopRequest(at_once=True):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            saved.append("what was built")
    assert bool(saved) == finishes


@pytest.mark.parametrize("number, error", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Stopped)])
def test_a_held_signal_acts_when_the_block_has_ended(capsys, number, error):
    done = []
    with pytest.raises(error), StopRequest(at_once=True), HeldSignals("the id is known"):
        signal.raise_signal(number)
        done.append("the id")
    assert done == ["the id"] and "stopping once the id is known" in capsys.readouterr().err


def test_a_second_held_signal_acts_at_once():
    done = []
    with pytest.raises(KeyboardInterrupt), HeldSignals("the id is known"):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        done.append("the id")
    assert not done and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_that_is_ignored_stays_ignored(capsys):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with HeldSignals("the id is known"):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not capsys.readouterr().err
