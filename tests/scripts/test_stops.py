"""A run that is asked to stop ends at once where nothing is lost, and loses nothing."""

import json
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

import train
from caching import cache_building, feature_building
from caching.shards import Shard
from evaluation.metrics import VideoScores
from helpers.small_datasets import SMALL, write_moving_bar
from helpers.training_processes import run, start_torchrun
from training import loop

STOPPED_IN_VALIDATION = Path(__file__).parents[1] / "helpers" / "stopped_in_validation.py"
LIVE = ("seconds", "data_seconds", "val_seconds", "val_data_seconds")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def options(dataset, cache):
    """Nine training videos, in steps of four; two epochs."""
    small = [*SMALL, "--workers", "0", "--epochs", "2", "--checkpoint-minutes", "0", "--cache-dataset", "--lr", "1e-3"]
    return [*small, "--data-path", str(dataset), "--cache-dir", str(cache), "--use-deterministic-algorithms"]


def end_of(folder):
    checkpoint = torch.load(folder / "checkpoint.pth", weights_only=True)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return checkpoint, [{name: line[name] for name in line if name not in LIVE} for line in log]


def stop_in_call(monkeypatch, owner, name, number):
    """Sends SIGUSR1 in call `number`, from 0, of a function."""
    real, calls = getattr(owner, name), []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) == number + 1:
            signal.raise_signal(signal.SIGUSR1)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)
    return calls


@pytest.mark.parametrize("further", [["--trainable", "fc"], ["--model-ema", "--bn-recalibrate"]])
def test_a_stop_in_validation_repeats_the_validation_alone(options, tmp_path, monkeypatch, capsys, further):
    options = [*options, *further]
    assert train.main([*options, "--output-dir", str(tmp_path / "whole")]) == 0
    command = [*options, "--output-dir", str(tmp_path / "cut")]
    batches = 2 * (1 + ("--model-ema" in further))  # of a validation of six videos
    with monkeypatch.context() as patch:
        calls = stop_in_call(patch, VideoScores, "update", number=batches)  # the first of the second validation
        assert train.main(command) == 138
    assert len(calls) == batches + 1
    out = capsys.readouterr().out
    assert "stopped by SIGUSR1, the run is saved. Continue with: " in out and out.endswith("--resume auto\n")
    saved = torch.load(tmp_path / "cut" / "checkpoint.pth", weights_only=True)
    assert (saved["epoch"], saved["clips_seen"]) == (0, 9)
    assert train.main([*command, "--resume", "auto"]) == 0
    assert "Epoch: [1]  [" not in capsys.readouterr().out  # no step is taken again
    (found, log), (expected, expected_log) = end_of(tmp_path / "cut"), end_of(tmp_path / "whole")
    assert log == expected_log
    for part in ("model", "optimizer"):
        torch.testing.assert_close(found[part], expected[part], rtol=0, atol=0)


def test_a_stop_before_validation_is_seen_when_the_epoch_is_saved(options, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_in_call(patch, loop, "_train_epoch", number=0)
        patch.setattr(loop.Trainer, "train_epoch", lambda *_, **__: None)
        validated = stop_in_call(patch, loop.Trainer, "validate", number=9)
        assert train.main([*options, "--output-dir", str(tmp_path)]) == 138
    assert not validated and (tmp_path / "checkpoint.pth").is_file()


def test_two_processes_stop_in_validation_and_go_on(options, tmp_path):
    command = [*options, "--epochs", "1", "--trainable", "fc", "--output-dir", str(tmp_path)]
    code, output = run([*command, "--batch-size", "2"], 2, script=STOPPED_IN_VALIDATION)
    assert code == 143 and output.count("stopped by SIGTERM, the run is saved") == 1, output
    assert torch.load(tmp_path / "checkpoint.pth", weights_only=True)["clips_seen"] == 10  # of nine, filled up
    code, output = run([*command, "--batch-size", "2", "--resume", "auto"], 2)
    assert code == 0 and "Resuming after epoch -1 and 10 clips of epoch 0" in output and "Report:" in output, output


@pytest.mark.parametrize("owner, name", [(cache_building.ShardWriter, "add"), (feature_building.Trunk, "features")])
def test_a_stop_keeps_what_was_built(options, tmp_path, monkeypatch, owner, name):
    own = [*options, "--cache-dir", str(tmp_path / "cache"), "--output-dir", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        stop_in_call(patch, owner, name, number=2)
        if name == "features":
            own = [*own, "--cache-features"]
        assert train.main(own) == 138
    kept = sum(len(Shard(path)) for path in (tmp_path / "cache").rglob("*.shard"))
    assert kept == (15 + 6 if name == "features" else 2), "videos, and features of validation"


def test_an_epoch_whose_videos_changed_begins_anew_and_a_best_of_other_videos_is_told(
    dataset, options, tmp_path, monkeypatch, capsys
):
    shutil.copytree(dataset, tmp_path / "data")
    own = [*options, "--trainable", "fc", "--data-path", str(tmp_path / "data"), "--output-dir", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        stop_in_call(patch, loop.Trainer, "_take_step", number=4)  # the second of three in the second epoch
        assert train.main(own) == 138
    seen = torch.load(tmp_path / "run" / "checkpoint.pth", weights_only=True)["clips_seen"]
    assert seen == 8
    words = ["begins anew", "not comparable"]
    taken = stop_in_call(monkeypatch, loop.Trainer, "_take_step", number=99)
    shutil.copytree(tmp_path / "run", tmp_path / "same")
    capsys.readouterr()
    assert train.main([*own, "--output-dir", str(tmp_path / "same"), "--resume", "auto"]) == 0
    assert not any(word in capsys.readouterr().out for word in words) and len(taken) == 1
    for split in ("train", "val"):
        write_moving_bar(tmp_path / "data" / split / "squats" / "new.mp4", seed=77)
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    assert train.main([*own, "--output-dir", str(tmp_path / "other"), "--resume", "auto"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in words) and len(taken) == 1 + 3, out
    # What was chosen since is of the videos that there are now.
    checkpoint = torch.load(tmp_path / "other" / "checkpoint.pth", weights_only=True)
    is_new = checkpoint["epochs_since_best"] == 0
    best = torch.load(tmp_path / "run" / "model_0.pth", weights_only=True)["best_videos"]
    assert (checkpoint["best_videos"] != best) == is_new


@pytest.mark.slow
def test_torchrun_that_is_stopped_in_a_validation_ends_with_the_command_that_goes_on(options, tmp_path, monkeypatch):
    monkeypatch.setenv("SLOW_VALIDATION", "1")
    command = [*options, "--epochs", "1", "--trainable", "fc", "--output-dir", str(tmp_path)]
    output = []
    with start_torchrun(command, 2, script=STOPPED_IN_VALIDATION) as launcher:
        for line in launcher.stdout:
            output.append(line)
            if "validating" in line:
                begin = time.monotonic()
                launcher.terminate()
    assert launcher.returncode != 0 and time.monotonic() - begin < 25, "torchrun kills after 30 seconds"
    told = "stopped by SIGTERM, the run is saved. Continue with: torchrun --nproc_per_node=2 "
    assert "".join(output).count(told) == 1, "".join(output)
    assert torch.load(tmp_path / "checkpoint.pth", weights_only=True)["clips_seen"] == 10
