import errno
import json
import multiprocessing
import os
import random
import resource
import tempfile
from pathlib import Path

import pytest

import refactor_dataset
from helpers.killing import kill_at_change, run_script, sigkill_at_random
from helpers.release_files import list_files, make_release, write_labels
from refactor_dataset import DatasetRefactorer
from references.dataset_tools import placing
from references.dataset_tools.sources import SourceFile

ENTRIES = [(f"{n}.mp4", f"class {n % 3}", "val" if n % 4 == 0 else "train") for n in range(12)]


@pytest.fixture
def other_file_system(tmp_path):
    if not os.access("/dev/shm", os.W_OK) or os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("there is no second file system")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def clean_tree(tmp_path: Path) -> dict[str, bytes]:
    srcs, labels = make_release(tmp_path / "clean", ENTRIES)
    DatasetRefactorer(srcs, tmp_path / "clean" / "dest", labels).refactor_dataset()
    return list_files(tmp_path / "clean" / "dest")


def test_auto_copies_where_it_cannot_link(tmp_path, other_file_system):
    srcs, labels = make_release(tmp_path, ENTRIES)
    outcome = DatasetRefactorer(srcs, other_file_system / "dest", labels, jobs=4).refactor_dataset()
    assert outcome.ways == {"copy": 12}
    assert list_files(other_file_system / "dest") == clean_tree(tmp_path)
    outcome = DatasetRefactorer(srcs, other_file_system / "dest2", labels, mode="hardlink").refactor_dataset()
    assert len(outcome.problems) == 12 and "link" in outcome.problems[0][1]


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


def test_a_move_keeps_the_source_of_a_file_that_is_not_what_was_placed(tmp_path):
    srcs, labels = make_release(tmp_path, ENTRIES[:4])
    dest = tmp_path / "dest"
    DatasetRefactorer(srcs, dest, labels, mode="copy").refactor_dataset()
    (dest / "train/class_1/1.mp4").write_bytes(b"other bytes")
    for number, other in ((2, tmp_path / "elsewhere.mp4"), (3, tmp_path / "nowhere.mp4")):
        (dest / f"train/class_{number % 3}/{number}.mp4").unlink()
        (dest / f"train/class_{number % 3}/{number}.mp4").symlink_to(other)
    (tmp_path / "elsewhere.mp4").write_bytes(b"the bytes of 2.mp4")
    outcome = DatasetRefactorer(srcs, dest, labels, mode="move").refactor_dataset()
    assert outcome.taken_away == 1 and outcome.ways == {"move": 1}
    assert [path for path, _ in outcome.problems] == ["train/class_1/1.mp4", "train/class_2/2.mp4"]
    assert [*list_files(srcs[0]), *list_files(srcs[1])] == ["2.mp4", "1.mp4"]


@pytest.mark.parametrize("earlier", [None, "copy", "symlink"])
def test_a_move_removes_a_source_once_its_copy_is_on_the_disk(tmp_path, other_file_system, monkeypatch, earlier):
    srcs, labels = make_release(tmp_path, ENTRIES[:3])
    dest, on_disk, removed = other_file_system / "dest", set(), 0
    if earlier:
        DatasetRefactorer(srcs, dest, labels, mode=earlier).refactor_dataset()
    fsync, unlink = os.fsync, os.unlink

    def note_fsync(descriptor):
        on_disk.add(os.path.realpath(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def check_unlink(path):
        nonlocal removed
        if str(path).startswith(str(tmp_path)):
            (copy,) = dest.rglob(os.path.basename(path))
            assert {str(copy), str(copy.parent)} <= on_disk
            removed += 1
        unlink(path)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "unlink", check_unlink)
    assert DatasetRefactorer(srcs, dest, labels, mode="move").refactor_dataset().problems == []
    assert removed == 3


@pytest.mark.parametrize("earlier", [None, "symlink"])
def test_a_verified_move_keeps_the_source_of_a_copy_that_differs(tmp_path, other_file_system, monkeypatch, earlier):
    srcs, labels = make_release(tmp_path, ENTRIES[:3])
    dest = other_file_system / "dest"
    if earlier:
        DatasetRefactorer(srcs, dest, labels, mode=earlier).refactor_dataset()

    def copy_damaged(source, target):
        data = Path(source).read_bytes()
        Path(target).write_bytes(bytes(len(data)) if source.endswith("1.mp4") else data)

    with monkeypatch.context() as patch:
        patch.setattr(placing.shutil, "copy2", copy_damaged)
        outcome = DatasetRefactorer(srcs, dest, labels, mode="move", verify=True).refactor_dataset()
    assert [path for path, _ in outcome.problems] == ["train/class_1/1.mp4"]
    assert list_files(srcs[1]) == {"1.mp4": b"the bytes of 1.mp4"} and not list_files(srcs[0])
    assert len(list_files(dest)) == (3 if earlier else 2)
    assert DatasetRefactorer(srcs, dest, labels, mode="move", verify=True).refactor_dataset().problems == []
    assert list_files(dest)["train/class_1/1.mp4"] == b"the bytes of 1.mp4" and not list_files(srcs[1])


def test_a_move_does_not_take_one_name_for_two(tmp_path):
    """A class folder that is a link into the source: what is in place there is the source itself."""
    srcs, labels = make_release(tmp_path, ENTRIES[:1])
    dest = tmp_path / "dest"
    DatasetRefactorer(srcs, dest, labels).refactor_dataset()
    (dest / "val/class_0/0.mp4").unlink()
    (dest / "val/class_0").rmdir()
    (dest / "val/class_0").symlink_to(srcs[0])
    DatasetRefactorer(srcs, dest, labels, mode="move").refactor_dataset()
    assert (srcs[0] / "0.mp4").read_bytes() == b"the bytes of 0.mp4"


def test_a_full_disk_stops_clearly_and_a_rerun_completes(tmp_path, monkeypatch, capsys):
    srcs, labels = make_release(tmp_path, ENTRIES)
    arguments = ["--src", *map(str, srcs), "--labels", str(labels), "--dest", str(tmp_path / "dest"), "--mode", "copy"]
    copy, count = placing.shutil.copy2, 0

    def fill_up(source, target):
        nonlocal count
        count += 1
        if count > 5:
            Path(target).write_bytes(b"hal")
            raise OSError(errno.ENOSPC, "No space left on device", target)
        return copy(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(placing.shutil, "copy2", fill_up)
        assert refactor_dataset.main([*arguments, "--jobs", "1"]) == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error and "run again" in error and "Traceback" not in error
    wanted = clean_tree(tmp_path)
    assert list_files(tmp_path / "dest").items() < wanted.items()
    assert refactor_dataset.main(arguments) == 0
    assert list_files(tmp_path / "dest") == wanted


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


def test_an_unfinished_copy_is_cleared_away(tmp_path):
    srcs, labels = make_release(tmp_path, ENTRIES)
    leftover = tmp_path / "dest/train/class_1/.x.partial"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"hal")
    DatasetRefactorer(srcs, tmp_path / "dest", labels).refactor_dataset()
    assert not leftover.exists()


def test_nothing_is_overwritten_even_if_it_came_after_the_listing(tmp_path):
    source = tmp_path / "source.mp4"
    source.write_bytes(b"source")
    stat = source.stat()
    file = SourceFile(str(source), stat.st_size, stat.st_mtime_ns, stat.st_dev, stat.st_ino)
    (tmp_path / "dest/.dataset_tools").mkdir(parents=True)
    (tmp_path / "dest/there.mp4").write_bytes(b"somebody else's")
    for mode in placing.PLACERS:
        placed = placing.place_all([placing.Placement("there.mp4", file)], tmp_path / "dest", mode, 1, lambda n: None)
        assert [path for path, _ in placed.failures] == ["there.mp4"], mode
    assert (tmp_path / "dest/there.mp4").read_bytes() == b"somebody else's"
    assert source.read_bytes() == b"source"


def test_an_unreadable_source_does_not_stop_the_others(tmp_path, monkeypatch):
    srcs, labels = make_release(tmp_path, ENTRIES)
    copy = placing.shutil.copy2

    def refuse_one(source, target):
        if source.endswith("/3.mp4"):
            raise PermissionError(errno.EACCES, "Permission denied", source)
        return copy(source, target)

    monkeypatch.setattr(placing.shutil, "copy2", refuse_one)
    outcome = DatasetRefactorer(srcs, tmp_path / "dest", labels, mode="copy").refactor_dataset()
    assert outcome.problems == [("train/class_0/3.mp4", "Permission denied")]
    assert len(list_files(tmp_path / "dest")) == 11


def test_a_dangling_link_is_replaced(tmp_path):
    srcs, labels = make_release(tmp_path, ENTRIES)
    place = tmp_path / "dest/train/class_1/1.mp4"
    place.parent.mkdir(parents=True)
    place.symlink_to(tmp_path / "where the sources were")
    own = place.with_name("own.mp4")
    own.symlink_to(tmp_path / "a disk that is not mounted now")
    DatasetRefactorer(srcs, tmp_path / "dest", labels, mode="symlink").refactor_dataset()
    assert place.read_bytes() == b"the bytes of 1.mp4"
    assert own.is_symlink(), "not in the way of any video"


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


def test_the_record_survives_a_line_broken_by_a_kill(tmp_path):
    srcs, labels = make_release(tmp_path, ENTRIES)
    record = tmp_path / "dest/.dataset_tools/placed.jsonl"
    record.parent.mkdir(parents=True)
    record.write_text('["train/class_1/1.mp4", 18, 17')
    DatasetRefactorer(srcs, tmp_path / "dest", labels).refactor_dataset()
    write_labels(labels, ENTRIES[:1])
    outcome = DatasetRefactorer(srcs, tmp_path / "dest", labels, prune=True).refactor_dataset()
    assert outcome.pruned == 11 and list(list_files(tmp_path / "dest")) == ["val/class_0/0.mp4"]
    assert [json.loads(line)[0] for line in record.read_text().splitlines()[1:2]] == ["train/class_0/3.mp4"]
