"""Runs that are killed, or that meet another: a rerun ends as if nothing had happened."""

import multiprocessing
import os
import random
import resource
from pathlib import Path

import pytest

import refactor_dataset
from helpers.killing import kill_at_change, run_script, sigkill_at_random
from helpers.release_files import ENTRIES, clean_tree, list_files, make_release
from refactor_dataset import DatasetRefactorer
from references.dataset_tools import placing


@pytest.mark.parametrize("mode", placing.PLACERS)
@pytest.mark.parametrize("is_other", [False, True])
def test_killed_at_any_step_a_rerun_gives_the_same_tree(tmp_path, other_file_system, mode, is_other):
    if is_other and mode == "hardlink":
        pytest.skip("hard links stay on one file system")
    wanted, was_killed, step = clean_tree(tmp_path), True, 0
    while was_killed:
        folder = tmp_path / f"{step}"
        dest = (other_file_system if is_other else folder) / f"dest{step}"
        srcs, labels = make_release(folder, ENTRIES)
        refactorer = DatasetRefactorer(srcs, dest, labels, mode=mode)
        was_killed = kill_at_change(step, refactorer.refactor_dataset)
        files = {path: data for path, data in list_files(dest).items() if not path.endswith(".partial")}
        if mode != "symlink":
            assert files.items() <= wanted.items(), "no partial file under its final name"
        outcome = refactorer.refactor_dataset()
        assert outcome.problems == [] and outcome.absent == []
        found = list_files(dest)
        if mode == "symlink":
            found = {path: Path(os.fsdecode(target)).read_bytes() for path, target in found.items()}
        assert found == wanted, f"step {step}"
        if mode == "move":
            assert not any(any(src.iterdir()) for src in srcs)
        step += 1
    assert step > 12


@pytest.mark.parametrize("earlier", ["hardlink", "symlink", "copy", "auto elsewhere", "symlink elsewhere"])
def test_a_move_after_another_mode_takes_the_sources_and_loses_nothing(tmp_path, other_file_system, earlier):
    mode, _, elsewhere = earlier.partition(" ")
    entries = ENTRIES[:3]
    wanted = {f"the bytes of {name}".encode() for name, _, _ in entries}
    was_killed, step = True, 0
    while was_killed:
        dest = (other_file_system if elsewhere else tmp_path) / f"dest{step}"
        srcs, labels = make_release(tmp_path / f"{step}", entries)
        DatasetRefactorer(srcs, dest, labels, mode=mode).refactor_dataset()
        mover = DatasetRefactorer(srcs, dest, labels, mode="move")
        was_killed = kill_at_change(step, mover.refactor_dataset)
        files = [path for folder in (*srcs, dest) for path in folder.rglob("*.mp4")]
        assert {path.read_bytes() for path in files} == wanted, f"step {step}"
        assert mover.refactor_dataset().problems == []
        assert set(list_files(dest).values()) == wanted and not any(any(src.iterdir()) for src in srcs)
        assert not any(path.is_symlink() for path in dest.rglob("*"))
        step += 1
    assert step > 3


def many_entries(count: int) -> list[tuple[str, str, str]]:
    return [(f"{n:06d}.mp4", f"class {n % 20}", "val" if n % 4 == 0 else "train") for n in range(count)]


@pytest.mark.parametrize("mode", ["hardlink", "copy", "move"])
def test_two_runs_at_once_end_right(tmp_path, mode):
    srcs, labels = make_release(tmp_path, many_entries(2000))
    arguments = ["--src", *map(str, srcs), "--labels", str(labels), "--dest", str(tmp_path / "dest"), "--mode", mode]
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        assert pool.map(refactor_dataset.main, [arguments, arguments]) == [0, 0]
    files = list_files(tmp_path / "dest")
    assert len(files) == 2000 and all(
        data == f"the bytes of {Path(path).name}".encode() for path, data in files.items()
    )


def kill_often(tmp_path: Path, mode: str, times: int) -> None:
    entries = many_entries(3000)
    srcs, labels = make_release(tmp_path, entries)
    dest = tmp_path / "dest"
    arguments = ["--src", *map(str, srcs), "--labels", str(labels), "--dest", str(dest), "--mode", mode]
    rng = random.Random(mode)
    for _ in range(times):
        sigkill_at_random("refactor_dataset.py", arguments, 0.6, rng)
        files = [path for path in dest.rglob("*.mp4")] if dest.exists() else []
        assert all(path.read_bytes() == f"the bytes of {path.name}".encode() for path in files)
    done = run_script("refactor_dataset.py", arguments)
    assert done.returncode == 0, done.stderr
    assert list_files(dest) == {
        f"{split}/{label.replace(' ', '_')}/{name}": f"the bytes of {name}".encode() for name, label, split in entries
    }


@pytest.mark.parametrize("mode", ["copy"])
def test_sigkill(tmp_path, mode):
    kill_often(tmp_path, mode, times=3)


@pytest.mark.slow
@pytest.mark.parametrize("mode", placing.PLACERS.keys() - {"symlink"})
def test_sigkill_at_20_moments(tmp_path, mode):
    kill_often(tmp_path, mode, times=20)


def write_limited(arguments: list[str]) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
    raise SystemExit(refactor_dataset.main(arguments))


def test_a_file_that_does_not_fit_leaves_nothing_of_itself(tmp_path):
    """A real refusal of the operating system, in the middle of one file."""
    srcs, labels = make_release(tmp_path, ENTRIES)
    (srcs[0] / "0.mp4").write_bytes(bytes(100_000))
    arguments = ["--src", *map(str, srcs), "--labels", str(labels), "--dest", str(tmp_path / "dest"), "--mode", "copy"]
    process = multiprocessing.get_context("spawn").Process(target=write_limited, args=(arguments,))
    process.start()
    process.join()
    assert process.exitcode == 1
    assert len(list_files(tmp_path / "dest")) == 11 and "val/class_0/0.mp4" not in list_files(tmp_path / "dest")
