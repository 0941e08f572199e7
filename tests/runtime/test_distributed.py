"""Several processes give what one gives; a process that fails ends them all."""

import os
import re
import shlex
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from helpers.small_datasets import SMALL, make_dataset
from helpers.training_processes import run, start_torchrun, torchrun
from runtime import distributed


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight training and three validation videos, two classes, scanned."""
    root = make_dataset(tmp_path_factory.mktemp("data"), ["pushups", "squats"], num_train=4, num_val=2)
    (root / "val" / "squats" / "00000001.mp4").unlink()
    return root


@pytest.fixture(scope="module")
def options(data, tmp_path_factory):
    """Flags of a small run; all frozen but the last layer, so that no BatchNorm depends on how a batch is dealt out."""
    cache = tmp_path_factory.mktemp("cache")
    small = [*SMALL, "--workers", "0", "--trainable", "fc", "--lr", "0.1", "--epochs", "1"]
    return [*small, "--data-path", str(data), "--cache-dir", str(cache), "--cache-dataset"]


@pytest.fixture(scope="module")
def alone(options, tmp_path_factory):
    """The run of one process: its folder and output."""
    folder = tmp_path_factory.mktemp("alone")
    code, output = run([*options, "--batch-size", "4", "--output-dir", str(folder)])
    assert code == 0, output
    return folder, output


def accuracies(output):
    lines = re.findall(r"^ \* .*$|^   \d+ videos, \d+ clips", output, re.MULTILINE)
    return lines, float(re.findall(r"videos, .*; loss ([\d.]+)", output)[-1])


def test_two_processes_train_and_validate_as_one(options, alone, tmp_path):
    folder, alone_output = alone
    code, output = torchrun([*options, "--batch-size", "2", "--output-dir", str(tmp_path)], processes=2)
    assert code == 0, output
    (lines, loss), (expected_lines, expected_loss) = accuracies(output), accuracies(alone_output)
    assert lines == expected_lines and loss == pytest.approx(expected_loss, abs=2e-4)
    one, two = (torch.load(path / "checkpoint.pth", weights_only=True)["model"] for path in (folder, tmp_path))
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)


@pytest.mark.slow
def test_two_processes_train_by_the_recipe_as_one(options, tmp_path):
    recipe = ["--augment", "strong", "--label-smoothing", "0.1", "--balanced-sampling", "--model-ema", "--epochs", "2"]
    for processes, batch_size in ((1, "4"), (2, "2")):
        own = ["--batch-size", batch_size, "--output-dir", str(tmp_path / str(processes))]
        code, output = run([*options, *recipe, *own], processes)
        assert code == 0, output
    one, two = (torch.load(tmp_path / f"{count}/checkpoint.pth", weights_only=True)["model"] for count in (1, 2))
    assert all(torch.allclose(one[name], two[name], atol=1e-5) for name in one)
    # What mixes the clips of a batch depends on how they are dealt out: it runs, and comes to something else.
    mixed = ["--mixup-alpha", "0.2", "--cutmix-alpha", "1", "--bn-recalibrate", "--trainable", "layer4", "fc"]
    code, output = run([*options, *recipe, *mixed, "--batch-size", "2", "--output-dir", str(tmp_path / "c")], 2)
    assert code == 0 and "3 videos, 3 clips" in output and "estimated again" in output, output


def test_three_processes_validate_three_videos_and_two(options, alone, data, tmp_path):
    folder, alone_output = alone
    resume = ["--resume", str(folder / "checkpoint.pth"), "--test-only", "--output-dir", str(tmp_path)]
    code, output = run([*options, *resume], processes=3)
    assert code == 0, output
    assert accuracies(output)[0] == accuracies(alone_output)[0]
    one_class = tmp_path / "few"
    (one_class / "val").mkdir(parents=True)
    os.symlink(data / "val" / "pushups", one_class / "val" / "pushups")
    code, output = run([*options, *resume, "--data-path", str(one_class)], processes=3)  # one has nothing to score
    assert code == 0 and "2 videos, 2 clips" in output, output


def test_a_process_that_fails_ends_the_run_with_its_message(data, tmp_path):
    root = make_dataset(tmp_path / "data", ["pushups", "squats"], num_train=4, num_val=1)
    options = [*SMALL, "--workers", "0", "--data-path", str(root), "--cache-dir", str(tmp_path / "cache")]
    options += ["--trainable", "fc", "--epochs", "1", "--batch-size", "1", "--output-dir"]
    assert run([*options, str(tmp_path / "a")])[0] == 0
    victim = root / "train" / "squats" / "00000002.mp4"
    status, content = victim.stat(), bytearray(victim.read_bytes())
    begin = content.index(b"mdat") + 8
    content[begin:] = bytes(len(content) - begin)
    victim.write_bytes(content)
    os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))  # the index still believes in it
    begin = time.monotonic()
    code, output = torchrun([*options, str(tmp_path / "b")], processes=2)
    assert code != 0 and str(victim) in output, output
    assert time.monotonic() - begin < 120


@pytest.mark.slow
def test_torchrun_starts_a_run_again_that_lost_a_process(options, tmp_path):
    """The processes find each other again, and go on from the newest checkpoint."""
    command = [*options, "--epochs", "3", "--overwrite", "--output-dir", str(tmp_path)]
    launcher = start_torchrun(command, 2, "--max-restarts=1")
    for line in launcher.stdout:
        if line.startswith("Epoch: [1]"):
            break
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    ranks = [int(pid) for pid in children if "train.py" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(ranks[0], signal.SIGKILL)
    output, _ = launcher.communicate(timeout=240)
    assert launcher.returncode == 0 and "Resuming after epoch 0" in output, output
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 3


# Ends the first attempt of train.py under torchrun, and not torchrun itself.
ENDS_THE_FIRST_ATTEMPT = """
import os, sys
from runtime.errors import UserError
if os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0" and os.environ.get("RANK"):
    os._exit(9)
"""


@pytest.mark.parametrize("flags, code", [(["--overwrite"], 0), ([], 1)])
def test_torchrun_does_not_go_on_with_a_run_that_it_did_not_write(options, alone, tmp_path, monkeypatch, flags, code):
    """Its first attempt ends before it has looked into the folder, which holds a run of before."""
    (tmp_path / "sitecustomize.py").write_text(ENDS_THE_FIRST_ATTEMPT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    shutil.copytree(alone[0], tmp_path / "run")
    before = (tmp_path / "run" / "log.jsonl").read_text()
    command = [*options, "--epochs", "2", "--output-dir", str(tmp_path / "run"), *flags]
    with start_torchrun(command, 1, "--max-restarts=1") as launcher:
        output, _ = launcher.communicate(timeout=240)
    assert launcher.returncode == code and "Resuming" not in output, output
    if code:
        assert "holds another run already" in output and (tmp_path / "run" / "log.jsonl").read_text() == before
    else:
        assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 2


def test_the_command_told_by_stopped_processes_of_torchrun_continues_them(options, tmp_path):
    """Of two processes one tells it, with what it saved."""
    command = [
        *options,
        "--epochs",
        "50",
        "--batch-size",
        "1",
        "--checkpoint-minutes",
        "0",
        "--output-dir",
        str(tmp_path),
    ]
    launcher = start_torchrun([*command, "--overwrite", "--print-freq", "1"], 2)
    for line in launcher.stdout:
        if line.startswith("Epoch: [0]  [1/"):
            launcher.terminate()
            break
    output, _ = launcher.communicate(timeout=240)
    (told,) = re.findall("the run is saved. Continue with: (.*)", output)
    words = shlex.split(told)
    assert words[:2] == ["torchrun", "--nproc_per_node=2"] and words[2].endswith("train.py")
    assert words[3:] == [*command, "--print-freq", "1", "--resume", "auto"]


def test_what_is_validated_is_what_is_saved(options, tmp_path):
    """Each process's BatchNorms see other clips: the statistics must be the same before each scores its videos."""
    own = ["--trainable", "layer4", "fc", "--lr", "0.05", "--model-ema", "--output-dir", str(tmp_path)]
    code, output = run([*options, *own, "--batch-size", "3"], processes=2)
    assert code == 0, output
    code, again = run([*options, *own, "--test-only", "--resume", str(tmp_path / "checkpoint.pth")])
    assert code == 0 and accuracies(again)[0] == accuracies(output)[0][-len(accuracies(again)[0]) :], again
    assert accuracies(again)[1] == pytest.approx(accuracies(output)[1], abs=2e-4)
    code, output = run([*options, *own, "--epochs", "2", "--resume", "auto"])
    assert code == 0 and "written by 2 processes, now there are 1" in output, output


def test_what_several_processes_cannot_do_is_said_at_once(options, tmp_path):
    code, output = run([*options, "--sync-bn", "--output-dir", str(tmp_path)], processes=2)
    assert code == 1 and "error: --sync-bn needs GPUs" in output and "Traceback" not in output, output


def test_little_shared_memory_is_no_matter_where_nccl_does_not_use_it(monkeypatch):
    monkeypatch.setattr(distributed, "SHARED_MEMORY_BYTES", 1 << 60)
    with pytest.raises(distributed.UserError, match="NCCL_SHM_DISABLE=1"):
        distributed._check_shared_memory()
    monkeypatch.setenv("NCCL_SHM_DISABLE", "1")
    distributed._check_shared_memory()


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(3))
def test_three_processes_that_are_done_end(options, tmp_path, attempt):
    """Under torch 2.7 half of such runs printed their report and then stood still."""
    code, output = torchrun([*options, "--output-dir", str(tmp_path)], processes=3)
    assert code == 0 and "Report: " in output, output
