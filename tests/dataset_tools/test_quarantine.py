import errno
import json
import os
import shutil
import stat
import tempfile
from functools import partial
from pathlib import Path

import pytest

from helpers.killing import kill_at_change
from helpers.release_files import list_files
from references.dataset_tools import moving, records
from references.dataset_tools.quarantine import Quarantine

CLIP = "train/squats/1.mp4"


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "root" / "train" / "squats"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.mp4").write_bytes(b"%d" % number * 1000)
    return tmp_path / "root"


@pytest.fixture(params=["same", "other"])
def folder(request, tmp_path):
    """A quarantine folder on the root's file system, and one on another."""
    if request.param == "same":
        yield tmp_path / "bad"
        return
    if not os.access("/dev/shm", os.W_OK) or os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("there is no second file system")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        yield Path(other) / "bad"


def files_in(folder: Path) -> dict[str, bytes]:
    """What is in quarantine, but for its own journal."""
    return {path: data for path, data in list_files(folder).items() if not path.startswith("journal")}


def test_a_file_goes_and_comes_back(root, folder):
    before = list_files(root)
    modified = (root / CLIP).stat().st_mtime_ns
    quarantine = Quarantine(folder, root)
    assert quarantine.withdraw(CLIP, "cut short") == CLIP
    assert list_files(root).keys() == before.keys() - {CLIP}
    assert files_in(folder) == {CLIP: before[CLIP]}
    assert records.read_withdrawn(root) == {CLIP: "quarantined"}
    (entry,) = Quarantine(folder, root).restorable()
    assert (entry["reason"], entry["state"]) == ("cut short", "done")
    quarantine.restore(entry)
    assert list_files(root) == before and files_in(folder) == {}
    assert (root / CLIP).stat().st_mtime_ns == modified
    assert records.read_withdrawn(root) == {} and quarantine.restorable() == []


def test_the_journal_is_written_ahead(root, folder, monkeypatch):
    def check_journal(*args):
        assert [line["state"] for line in records.read_lines(folder / "journal.jsonl")] == ["planned"]

    monkeypatch.setattr(moving, "move", check_journal)
    Quarantine(folder, root).withdraw(CLIP, "bad")


def test_a_taken_name_gets_a_number(root, folder):
    quarantine = Quarantine(folder, root)
    contents = [b"first", b"second", b"third"]
    for content in contents:
        (root / CLIP).write_bytes(content)
        quarantine.withdraw(CLIP, "bad")
    names = [CLIP, "train/squats/1.1.mp4", "train/squats/1.2.mp4"]
    assert files_in(folder) == dict(zip(names, contents, strict=True))
    newest, *others = quarantine.restorable()
    quarantine.restore(newest)
    assert (root / CLIP).read_bytes() == b"third"
    with pytest.raises(FileExistsError, match="another file is in its place"):
        quarantine.restore(others[0])
    assert (root / CLIP).read_bytes() == b"third" and len(files_in(folder)) == 2


def test_a_name_as_long_as_can_be(root, folder):
    names = [f"train/{letters}.mp4" for letters in ("x" * 251, "\u8e72" * 83 + "xx")]
    quarantine = Quarantine(folder, root)
    for path in names * 2:
        (root / path).write_bytes(b"bad")
        quarantine.withdraw(path, "bad")
    kept = [entry["kept"] for entry in quarantine.restorable()]
    assert files_in(folder).keys() == set(kept) and len(kept) == 4
    assert f"train/{'x' * 249}.1.mp4" in kept and f"train/{chr(0x8E72) * 83}.1.mp4" in kept
    for entry in quarantine.restorable()[:2]:
        quarantine.restore(entry)
    assert {path for path in list_files(root) if len(path) > 80} == set(names)


def test_a_link_is_moved_as_a_link(root, folder, tmp_path):
    (tmp_path / "target.mp4").write_bytes(b"target")
    (root / "train" / "link.mp4").symlink_to(tmp_path / "target.mp4")
    (root / "train" / "dangling.mp4").symlink_to("nowhere")
    quarantine = Quarantine(folder, root)
    for name in ("link", "dangling"):
        quarantine.withdraw(f"train/{name}.mp4", "bad")
    assert os.readlink(folder / "train/link.mp4") == str(tmp_path / "target.mp4")
    assert os.readlink(folder / "train/dangling.mp4") == "nowhere"
    assert (tmp_path / "target.mp4").read_bytes() == b"target"
    for entry in quarantine.restorable():
        quarantine.restore(entry)
    assert os.readlink(root / "train/link.mp4") == str(tmp_path / "target.mp4")


def test_pipes_and_folders_are_moved(root, folder):
    os.mkfifo(root / "train/pipe.mp4")
    (root / "train/folder.mp4/deep").mkdir(parents=True)
    (root / "train/folder.mp4/deep/file").write_bytes(b"kept")
    quarantine = Quarantine(folder, root)
    for name in ("pipe", "folder"):
        quarantine.withdraw(f"train/{name}.mp4", "no file")
    assert stat.S_ISFIFO((folder / "train/pipe.mp4").lstat().st_mode)
    assert (folder / "train/folder.mp4/deep/file").read_bytes() == b"kept"
    for entry in quarantine.restorable():
        quarantine.restore(entry)
    assert (root / "train/folder.mp4/deep/file").read_bytes() == b"kept"
    assert stat.S_ISFIFO((root / "train/pipe.mp4").lstat().st_mode)


def write_remux(root: Path) -> Path:
    remux = root / "train/squats/.1.remux"
    remux.write_bytes(b"repaired")
    return remux


def test_a_remux_takes_the_place_and_the_original_is_kept(root, folder, tmp_path):
    os.link(root / CLIP, tmp_path / "source.mp4")  # as the refactorer places it
    before = list_files(root)
    quarantine = Quarantine(folder, root)
    quarantine.replace(CLIP, "bad container", str(write_remux(root)))
    assert list_files(root) == {**before, CLIP: b"repaired"}
    assert files_in(folder) == {CLIP: before[CLIP]}
    assert (tmp_path / "source.mp4").read_bytes() == before[CLIP], "the source shares the inode, and is untouched"
    assert records.read_withdrawn(root) == {CLIP: "remuxed"}
    quarantine.restore(quarantine.restorable()[0])
    assert list_files(root) == before and files_in(folder) == {}


def test_restore_does_not_overwrite_what_came_after_the_remux(root, folder):
    quarantine = Quarantine(folder, root)
    quarantine.replace(CLIP, "bad container", str(write_remux(root)))
    (root / CLIP).write_bytes(b"edited by its owner")
    with pytest.raises(FileExistsError):
        quarantine.restore(quarantine.restorable()[0])
    assert (root / CLIP).read_bytes() == b"edited by its owner"


def test_a_remuxed_link_keeps_its_target(root, folder, tmp_path):
    (tmp_path / "target.mp4").write_bytes(b"target")
    (root / "train/squats/9.mp4").symlink_to(tmp_path / "target.mp4")
    Quarantine(folder, root).replace("train/squats/9.mp4", "bad container", str(write_remux(root)))
    assert (tmp_path / "target.mp4").read_bytes() == b"target"
    assert os.readlink(folder / "train/squats/9.mp4") == str(tmp_path / "target.mp4")
    assert (root / "train/squats/9.mp4").read_bytes() == b"repaired"


def test_a_failed_move_leaves_all_as_it_was(root, folder, monkeypatch):
    def no_space(source, target):
        Path(target).write_bytes(b"hal")
        raise OSError(errno.ENOSPC, "No space left on device")

    def another_file_system(source, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setitem(moving.COPIERS, stat.S_IFREG, no_space)
    monkeypatch.setattr(os, "rename", another_file_system)
    before = list_files(root)
    quarantine = Quarantine(folder, root)
    with pytest.raises(OSError, match="No space left"):
        quarantine.withdraw(CLIP, "bad")
    assert list_files(root) == before and files_in(folder) == {}
    assert quarantine.restorable() == [] and records.read_withdrawn(root) == {}


ACTIONS = {
    "withdraw": lambda root, folder: Quarantine(folder, root).withdraw(CLIP, "bad"),
    "replace": lambda root, folder: Quarantine(folder, root).replace(CLIP, "bad", str(write_remux(root))),
}


def originals(root: Path, folder: Path) -> tuple[bool, bool]:
    """Whether the original is in place, and whether it is where the journal says that it was moved."""
    content = b"1" * 1000
    quarantine = Quarantine(folder, root)
    in_place = (root / CLIP).exists() and (root / CLIP).read_bytes() == content
    kept = [folder / entry["kept"] for entry in quarantine.restorable()]
    return in_place, bool(kept) and kept[0].read_bytes() == content


@pytest.mark.parametrize("action", ACTIONS)
def test_killed_at_any_step_the_journal_tells_where_the_original_is(root, folder, action):
    was_killed, step, template = True, 0, root.with_name("template")
    shutil.copytree(root, template)
    while was_killed:
        shutil.rmtree(root)
        shutil.copytree(template, root)
        shutil.rmtree(folder, ignore_errors=True)
        was_killed = kill_at_change(step, lambda: ACTIONS[action](root, folder))
        contents = [*list_files(root).values(), *list_files(folder).values()]
        assert b"1" * 1000 in contents, f"lost at step {step}"
        Quarantine(folder, root).settle()
        in_place, kept = originals(root, folder)
        assert in_place != kept, f"step {step}"
        assert records.read_withdrawn(root).get(CLIP) in (
            (None, "restored") if in_place else ("quarantined", "remuxed")
        )
        assert len(files_in(folder)) == kept, "no copy and no place holder is left"
        step += 1
    assert step > 4 and kept


@pytest.mark.parametrize("action", ACTIONS)
def test_a_restore_killed_at_any_step_can_be_run_again(root, folder, action):
    was_killed, step, template = True, 0, root.with_name("template")
    before = list_files(root)
    shutil.copytree(root, template)
    while was_killed:
        shutil.rmtree(root)
        shutil.copytree(template, root)
        shutil.rmtree(folder, ignore_errors=True)
        ACTIONS[action](root, folder)
        quarantine = Quarantine(folder, root)
        was_killed = kill_at_change(step, partial(quarantine.restore, quarantine.restorable()[0]))
        quarantine.settle()
        for entry in quarantine.restorable():
            quarantine.restore(entry)
        assert list_files(root) == before and files_in(folder) == {}, f"step {step}"
        step += 1
    assert step > 3


def test_other_roots_of_one_quarantine_are_left_alone(root, folder, tmp_path):
    shutil.copytree(root, tmp_path / "root2")
    Quarantine(folder, root).withdraw(CLIP, "bad")
    second = Quarantine(folder, tmp_path / "root2")
    second.withdraw(CLIP, "bad")
    assert [entry["kept"] for entry in second.restorable()] == ["train/squats/1.1.mp4"]


def test_placed_trees_within_the_root_have_their_own_records(root, folder, tmp_path):
    (root / records.FOLDER).mkdir()
    (root / records.FOLDER / "placed.jsonl").touch()
    (tmp_path / "other.mp4").write_bytes(b"not placed")
    quarantine = Quarantine(folder, tmp_path)
    quarantine.withdraw(f"root/{CLIP}", "bad")
    quarantine.withdraw("other.mp4", "bad")
    assert records.read_withdrawn(root) == {CLIP: "quarantined"}
    assert records.read_withdrawn(tmp_path) == {"other.mp4": "quarantined"}
    for entry in quarantine.restorable():
        quarantine.restore(entry)
    assert records.read_withdrawn(root) == {} == records.read_withdrawn(tmp_path)


def test_a_part_of_a_placed_tree_is_recorded_at_its_root(root, folder):
    (root / records.FOLDER).mkdir()
    (root / records.FOLDER / "placed.jsonl").touch()
    Quarantine(folder, root / "train").withdraw("squats/1.mp4", "bad")
    assert records.read_withdrawn(root) == {CLIP: "quarantined"}


def states_in(folder: Path) -> list[str]:
    return [line["state"] for line in records.read_lines(folder / "journal.jsonl")]


def test_each_root_has_its_own_files(root, folder, tmp_path):
    shutil.copytree(root, tmp_path / "root2")
    first, second = Quarantine(folder, root), Quarantine(folder, tmp_path / "root2")
    first.withdraw(CLIP, "bad")
    second.withdraw("train/squats/2.mp4", "bad")
    second.withdraw("train/squats/0.mp4", "bad")
    assert first.paths_taken_from_root() == {CLIP}
    assert second.paths_taken_from_root() == {"train/squats/2.mp4", "train/squats/0.mp4"}
    assert [entry["path"] for entry in second.restorable()] == ["train/squats/0.mp4", "train/squats/2.mp4"]
    assert first.count_of_other_roots() == {str(tmp_path / "root2"): 2}
    assert second.count_of_other_roots() == {str(root): 1}
    first.restore(first.restorable()[0])
    assert first.paths_taken_from_root() == {CLIP} and second.count_of_other_roots() == {}


def test_a_remux_that_is_kept_beside_the_original(root, folder):
    quarantine = Quarantine(folder, root)
    for content in (b"repaired", b"repaired again"):
        remux = root / "train/squats/.1.remux"
        remux.write_bytes(content)
        quarantine.keep_remuxed(CLIP, str(remux))
    assert files_in(folder) == {f"remuxed/{CLIP}": b"repaired", "remuxed/train/squats/1.1.mp4": b"repaired again"}
    assert not list(root.rglob("*.remux"))


@pytest.mark.parametrize("line", ['{"id": "a"}', '{"state": "done"}', "[1]", '{"id": "a", "state": "planned"}'])
def test_a_journal_of_somebody_else_is_refused(root, folder, line):
    folder.mkdir()
    (folder / "journal.jsonl").write_text(line + "\n")
    for action in (Quarantine.restorable, Quarantine.settle):
        with pytest.raises(records.RecordError, match="journal.jsonl"):
            action(Quarantine(folder, root))


@pytest.mark.parametrize(
    "change",
    [
        {"path": 5},
        {"kept": None},
        {"state": []},
        {"identity": 5},
        {"identity": [1, 2]},
        {"action": "replace"},  # without what replaced it
        {"path": "../outside.mp4"},
        {"kept": "train/../../outside.mp4"},
    ],
)
def test_a_journal_whose_entries_cannot_be_is_refused(root, folder, tmp_path, change):
    Quarantine(folder, root).withdraw(CLIP, "bad")
    (tmp_path / "outside.mp4").touch()
    (entry, *later) = records.read_lines(folder / "journal.jsonl")
    (folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (entry, *later, entry | change)))
    for action in (Quarantine.restorable, Quarantine.settle):
        with pytest.raises(records.RecordError, match="journal.jsonl"):
            action(Quarantine(folder, root))
    assert (tmp_path / "outside.mp4").exists()


def test_a_line_that_a_kill_broke_is_passed_over(root, folder):
    quarantine = Quarantine(folder, root)
    quarantine.withdraw(CLIP, "bad")
    with (folder / "journal.jsonl").open("a") as file:
        file.write('{"id": "abc", "sta')
    quarantine.withdraw("train/squats/2.mp4", "bad")
    assert len(quarantine.restorable()) == 2


def test_each_line_of_the_journal_is_on_the_disk_before_the_next_step(root, folder, monkeypatch):
    synced, fsync, move = [], os.fsync, moving.move

    def note(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def check_move(source, target):
        assert synced == [str(folder / "journal.jsonl")]
        move(source, target)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(moving, "move", check_move)
    Quarantine(folder, root).withdraw(CLIP, "bad")
    assert synced.count(str(folder / "journal.jsonl")) == 2


@pytest.mark.parametrize("is_moved", [False, True])
def test_a_restore_that_was_killed_is_finished_or_undone(root, folder, monkeypatch, is_moved):
    """Killed just before the move, or just after it."""
    quarantine = Quarantine(folder, root)
    quarantine.withdraw(CLIP, "bad")
    move = moving.move

    def move_and_end(source, target):
        if is_moved:
            move(source, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(moving, "move", move_and_end)
        quarantine.restore(quarantine.restorable()[0])
    quarantine.settle()
    assert states_in(folder) == ["planned", "done", "restoring", "restored" if is_moved else "done"]
    assert (root / CLIP).exists() is is_moved and len(quarantine.restorable()) == (not is_moved)
    assert records.read_withdrawn(root) == ({} if is_moved else {CLIP: "quarantined"})
    quarantine.settle()
    assert len(states_in(folder)) == 4, "settled once"


@pytest.mark.parametrize("is_moved", [False, True])
def test_a_withdrawal_that_was_killed_is_finished_or_undone(root, folder, monkeypatch, is_moved):
    move = moving.move

    def move_and_end(source, target):
        if is_moved:
            move(source, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(moving, "move", move_and_end)
        Quarantine(folder, root).withdraw(CLIP, "bad")
    Quarantine(folder, root.parent).settle()  # by a run on another root, which is told nothing of it
    assert states_in(folder) == ["planned", "done" if is_moved else "undone"]
    assert records.read_withdrawn(root) == {CLIP: "quarantined"}
    assert not (root.parent / records.FOLDER).exists()


def test_a_name_whose_bytes_are_not_utf_8_keeps_them(root, folder):
    stem = os.fsdecode(b"\xff" + b"x" * 248)  # which with .1.mp4 is as long as can be
    quarantine = Quarantine(folder, root)
    for _ in range(2):
        (root / f"{stem}.mp4").write_bytes(b"bad")
        quarantine.withdraw(f"{stem}.mp4", "bad")
    assert sorted(files_in(folder)) == sorted([f"{stem}.mp4", f"{stem}.1.mp4"])


def test_names_are_cut_at_255_bytes_where_the_system_does_not_tell(root, folder, monkeypatch):
    monkeypatch.delattr(os, "pathconf")
    test_a_name_as_long_as_can_be(root, folder)


def test_the_record_of_a_tree_far_above_the_root_is_left_alone(root, folder):
    (root / records.FOLDER).mkdir()
    (root / records.FOLDER / "placed.jsonl").touch()
    for deep, recorded_at in (("train", root), ("train/squats", root), ("train/squats/deep", None)):
        (root / deep).mkdir(exist_ok=True)
        (root / deep / "9.mp4").write_bytes(b"bad")
        Quarantine(folder, root / deep).withdraw("9.mp4", "bad")
        found = records.read_withdrawn(recorded_at or root / deep)
        assert found.get(f"{deep}/9.mp4" if recorded_at else "9.mp4") == "quarantined"
    assert len(records.read_withdrawn(root)) == 2
