import errno
import json
import os
import shutil
import threading
from pathlib import Path

import pytest

import refactor_dataset
from helpers.permissions import permissions_count
from helpers.release_files import ENTRIES, clean_tree, list_files, make_release, write_labels
from refactor_dataset import DatasetRefactorer
from references.dataset_tools import placing
from references.dataset_tools.sources import SourceFile


def test_auto_copies_where_it_cannot_link(tmp_path, other_file_system):
    srcs, labels = make_release(tmp_path, ENTRIES)
    outcome = DatasetRefactorer(srcs, other_file_system / "dest", labels, jobs=4).refactor_dataset()
    assert outcome.ways == {"copy": 12}
    assert list_files(other_file_system / "dest") == clean_tree(tmp_path)
    outcome = DatasetRefactorer(srcs, other_file_system / "dest2", labels, mode="hardlink").refactor_dataset()
    assert len(outcome.problems) == 12 and "link" in outcome.problems[0][1]


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
    ((path, reason),) = outcome.problems
    assert (
        path == "train/class_0/3.mp4"
        and reason.startswith(f"{tmp_path}/")
        and reason.endswith("/3.mp4: Permission denied")
    )
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


def source_of(path: Path) -> SourceFile:
    found = path.stat()
    return SourceFile(str(path), found.st_size, found.st_mtime_ns, found.st_dev, found.st_ino)


@pytest.fixture
def dest(tmp_path) -> Path:
    (tmp_path / "dest" / ".dataset_tools").mkdir(parents=True)
    return tmp_path / "dest"


def placements_of(tmp_path: Path, targets: list[str]) -> list[placing.Placement]:
    """A source for each target, that holds its path."""
    placements = []
    for number, target in enumerate(targets):
        path = tmp_path / "src" / f"{number}.mp4"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(target.encode())
        placements.append(placing.Placement(target, source_of(path)))
    return placements


def ignore(count: int) -> None:
    pass


def place(placements, dest, mode, **options) -> placing.Placed:
    return placing.place_all(placements, dest, mode, 1, ignore, **options)


TARGETS = ["train/a/0.mp4", "train/a/1.mp4", "train/a/2.mp4", "train/b/3.mp4", "train/a/4.mp4", "val/a/5.mp4"]


@pytest.mark.parametrize(
    "mode, way",
    [
        ("auto", "hard link"),
        ("hardlink", "hard link"),
        ("symlink", "symbolic link"),
        ("copy", "copy"),
        ("move", "move"),
    ],
)
def test_each_mode_places_and_records_every_file(tmp_path, dest, monkeypatch, mode, way):
    monkeypatch.setattr(placing, "FILES_PER_BATCH", 3)
    placements, advanced = placements_of(tmp_path, TARGETS), []
    (dest / "train" / "a").mkdir(parents=True)
    placed = placing.place_all(placements, dest, mode, 1, advanced.append)
    assert placed == ({way: 6}, []) and advanced == [3, 1, 1, 1], "at most three files of a folder at a time"
    for target, source in placements:
        assert (dest / target).read_bytes() == target.encode()
        assert (dest / target).is_symlink() is (mode == "symlink")
        assert os.path.exists(source.path) is (mode != "move")
        assert (dest / target).stat().st_mtime_ns == source.mtime_ns
        assert ((dest / target).stat().st_ino == source.inode) is (mode != "copy")
    lines = [json.loads(line) for line in (dest / ".dataset_tools/placed.jsonl").read_text().splitlines()]
    assert lines == [[target, source.bytes, source.mtime_ns, source.path] for target, source in sorted(placements)]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_takes_no_more_stops_all(tmp_path, dest, monkeypatch, number):
    link, count = os.link, 0

    def fill_up(source, target):
        nonlocal count
        count += 1
        if count == 3:
            raise OSError(number, "no more", target)
        link(source, target)

    monkeypatch.setattr(os, "link", fill_up)
    monkeypatch.setattr(placing, "FILES_PER_BATCH", 1)
    with pytest.raises(placing.PlacingError, match=r"^stopped placing files: .*no more.*; make room and run again"):
        place(placements_of(tmp_path, TARGETS), dest, "hardlink")
    assert sorted(list_files(dest)) == ["train/a/0.mp4", "train/a/1.mp4"]


def test_once_stopped_no_other_file_is_begun(tmp_path, dest, monkeypatch):
    placements, stop = placements_of(tmp_path, TARGETS[:3]), threading.Event()

    def link_and_stop(source, target):
        stop.set()
        return "hard link"

    placed = placing._place_batch(placements, dest, link_and_stop, stop)
    assert placed == ({"hard link": 1}, [])


@pytest.mark.parametrize(
    "error, reason",
    [
        (OSError(errno.EIO, "Input/output error", "a.mp4"), "Input/output error"),
        (OSError("a reason without a number"), "a reason without a number"),
        (
            FileExistsError(errno.EEXIST, "File exists"),
            "a file that was not there before is in its place now; run again",
        ),
    ],
)
def test_a_file_that_cannot_be_placed_does_not_stop_the_others(tmp_path, dest, monkeypatch, error, reason):
    link = os.link

    def refuse_one(source, target):
        if target.endswith("1.mp4"):
            raise error
        link(source, target)

    monkeypatch.setattr(os, "link", refuse_one)
    placed = place(placements_of(tmp_path, TARGETS), dest, "auto")
    assert placed == ({"hard link": 5}, [("train/a/1.mp4", reason)])


@pytest.mark.parametrize("number", sorted(placing.NOT_LINKABLE))
def test_what_cannot_be_linked_is_copied(tmp_path, dest, monkeypatch, number):
    def refuse(source, target):
        raise OSError(number, "not here", target)

    monkeypatch.setattr(os, "link", refuse)
    placements = placements_of(tmp_path, TARGETS)
    assert place(placements, dest, "auto").ways == {"copy": 6}
    assert place(placements_of(tmp_path, ["val/b/1.mp4"]), dest, "hardlink").failures == [("val/b/1.mp4", "not here")]


def copy_with(change):
    def copy2(source, target):
        Path(target).write_bytes(change(Path(source).read_bytes()))

    return copy2


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"x", lambda data: b""])
def test_a_copy_of_another_size_is_not_placed(tmp_path, dest, monkeypatch, change):
    monkeypatch.setattr(placing.shutil, "copy2", copy_with(change))
    placed = place(placements_of(tmp_path, TARGETS[:1]), dest, "copy")
    assert placed == ({}, [(TARGETS[0], "its source changed while it was copied")]) and list_files(dest) == {}


def test_a_copy_does_not_replace_what_came_while_it_was_made(tmp_path, dest, monkeypatch):
    def copy_and_come_in_between(source, target):
        Path(target).write_bytes(Path(source).read_bytes())
        (dest / TARGETS[0]).write_bytes(b"somebody else's")

    monkeypatch.setattr(placing.shutil, "copy2", copy_and_come_in_between)
    placed = place(placements_of(tmp_path, TARGETS[:1]), dest, "copy")
    assert placed.ways == {} and placed.failures[0][0] == TARGETS[0]
    assert list_files(dest) == {TARGETS[0]: b"somebody else's"}


@pytest.mark.parametrize("verify", [None, False, True])
def test_only_a_verified_move_sees_other_bytes_of_the_same_size(tmp_path, dest, monkeypatch, verify):
    def refuse(source, target):
        raise OSError(errno.EXDEV, "another disk", target)

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(placing.shutil, "copy2", copy_with(lambda data: bytes(len(data))))
    (placement,) = placements_of(tmp_path, TARGETS[:1])
    placed = place([placement], dest, "move", **({} if verify is None else {"verify": verify}))
    if verify:
        reason = f"its copy differs from its source {placement.source.path}, which is kept"
        assert placed == ({}, [(TARGETS[0], reason)]) and list_files(dest) == {}
        assert Path(placement.source.path).read_bytes() == TARGETS[0].encode()
    else:
        assert placed == ({"move": 1}, []) and not os.path.exists(placement.source.path)


def test_a_source_that_may_not_be_removed_is_named(tmp_path, dest):
    (placement,) = placements_of(tmp_path, TARGETS[:1])
    folder = Path(placement.source.path).parent
    folder.chmod(0o555)
    try:
        with permissions_count():
            placed = place([placement], dest, "move")
    finally:
        folder.chmod(0o755)
    assert placed == ({}, [(TARGETS[0], f"{placement.source.path}: Permission denied")])
    assert os.path.exists(placement.source.path)


@pytest.mark.parametrize("is_linked", [True, False])
def test_only_a_copy_is_waited_for(tmp_path, dest, monkeypatch, is_linked):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    (placement,) = placements_of(tmp_path, TARGETS[:1])
    target = dest / TARGETS[0]
    target.parent.mkdir(parents=True)
    (os.link if is_linked else shutil.copy2)(placement.source.path, target)
    placing._remove_moved(placement.source, str(target))
    assert synced == ([] if is_linked else [str(target), str(target.parent)])
    assert not os.path.exists(placement.source.path) and target.exists()


def placed_before(tmp_path: Path, dest: Path, mode: str, target: str = TARGETS[0]) -> SourceFile:
    (placement,) = placements_of(tmp_path, [target])
    assert place([placement], dest, mode).failures == []
    return placement.source


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("mode", ["hardlink", "symlink", "copy"])
def test_a_move_is_finished(tmp_path, dest, mode, dry_run):
    source = placed_before(tmp_path, dest, mode)
    assert placing.finish_moves([(TARGETS[0], source)], dest, dry_run) == (1, [])
    assert os.path.exists(source.path) is dry_run
    assert (dest / TARGETS[0]).is_symlink() is (dry_run and mode == "symlink")
    assert (dest / TARGETS[0]).read_bytes() == TARGETS[0].encode() and len(list_files(dest)) == 1


def other_bytes(target: Path, source: Path) -> None:
    target.unlink()
    target.write_bytes(b"TRAIN/A/0.MP4")


def a_link_to_a_copy(target: Path, source: Path) -> None:
    shutil.copy2(source, source.with_name("copy"))
    target.unlink()
    target.symlink_to(source.with_name("copy"))


@pytest.mark.parametrize("change", [other_bytes, a_link_to_a_copy])
@pytest.mark.parametrize("mode", ["hardlink", "symlink", "copy"])
def test_the_source_of_what_is_not_what_was_placed_is_kept(tmp_path, dest, mode, change):
    source = placed_before(tmp_path, dest, mode)
    change(dest / TARGETS[0], Path(source.path))
    reason = f"is not what was placed, so its source {source.path} is kept"
    assert placing.finish_moves([(TARGETS[0], source)], dest, False) == (0, [(TARGETS[0], reason)])
    assert Path(source.path).read_bytes() == TARGETS[0].encode()


def test_a_source_that_nothing_was_placed_from_is_left_alone(tmp_path, dest):
    source = placed_before(tmp_path, dest, "copy")
    elsewhere = tmp_path / "elsewhere.mp4"
    shutil.copy2(source.path, elsewhere)
    assert placing.finish_moves([(TARGETS[0], source_of(elsewhere))], dest, False) == (0, [])
    assert placing.finish_moves([("train/a/own.mp4", source)], dest, False) == (0, [])
    assert elsewhere.exists() and os.path.exists(source.path)
    assert placing.finish_moves([], tmp_path / "no such folder", False) == (0, [])


@pytest.mark.parametrize(
    "error, kept",
    [
        (PermissionError(errno.EACCES, "Permission denied", "x"), "Permission denied"),
        (OSError("a reason without a number"), "a reason without a number"),
        (OSError(errno.ENOSPC, "No space left on device"), None),
    ],
)
def test_a_move_that_cannot_be_finished(tmp_path, dest, monkeypatch, error, kept):
    def refuse(source, target):
        raise error

    source = placed_before(tmp_path, dest, "copy")
    monkeypatch.setattr(placing, "_remove_moved", refuse)
    if kept:
        assert placing.finish_moves([(TARGETS[0], source)], dest, False) == (0, [(TARGETS[0], kept)])
    else:
        with pytest.raises(placing.PlacingError, match=f"^stopped moving {TARGETS[0]}: .*; make room and run again"):
            placing.finish_moves([(TARGETS[0], source)], dest, False)
    assert os.path.exists(source.path)


def test_a_link_that_a_kill_left_is_replaced_too(tmp_path, dest):
    source = placed_before(tmp_path, dest, "symlink")
    (dest / "train/a/.link.partial").write_bytes(b"half")
    assert placing.finish_moves([(TARGETS[0], source)], dest, False) == (1, [])
    assert list_files(dest) == {TARGETS[0]: TARGETS[0].encode()}


@pytest.mark.parametrize("mode", ["hardlink", "symlink", "copy"])
def test_what_is_not_wanted_is_found(tmp_path, dest, mode):
    placements = placements_of(tmp_path, TARGETS)
    place(placements, dest, mode)
    (dest / "train/a/own.mp4").write_bytes(b"own")
    (dest / TARGETS[1]).unlink()
    prunable, kept = placing.find_prunable(dest, set(TARGETS[4:]))
    assert (prunable, kept) == (["train/a/0.mp4", "train/a/2.mp4", "train/b/3.mp4"], [])
    placing.remove(dest, prunable)
    assert sorted(list_files(dest)) == ["train/a/4.mp4", "train/a/own.mp4", "val/a/5.mp4"]
    assert not (dest / "train/b").exists() and all(os.path.exists(source.path) for _, source in placements)
    assert placing.find_prunable(dest, set(TARGETS)) == ([], [])


def change_to(data: bytes):
    def change(target: Path, source: Path) -> None:
        target.unlink()
        target.write_bytes(data)

    return change


def replace_source(target: Path, source: Path) -> None:
    source.unlink()
    source.write_bytes(b"another file")


def touch(target: Path, source: Path) -> None:
    source.write_bytes(b"another file.")  # as many bytes
    os.utime(target, ns=(1, 1))


CHANGED = "it was changed since it was placed"


ANOTHER = "its source {} is another file now, so this may be the only copy"


@pytest.mark.parametrize(
    "mode, change, reason",
    [
        ("copy", lambda target, source: source.unlink(), "its source {} is gone, so this may be the only copy"),
        ("hardlink", lambda target, source: source.unlink(), "its source {} is gone, so this may be the only copy"),
        ("copy", change_to(b"remuxed"), CHANGED),
        ("copy", touch, CHANGED),
        ("copy", replace_source, ANOTHER),
        ("move", replace_source, ANOTHER),
        ("symlink", lambda target, source: (target.unlink(), target.symlink_to("elsewhere")), CHANGED),
        ("symlink", lambda target, source: source.unlink(), None),
        ("copy", lambda target, source: os.utime(target, ns=(1, 1)), None),
    ],
)
def test_the_only_copy_is_never_pruned(tmp_path, dest, mode, change, reason):
    source = placed_before(tmp_path, dest, mode)
    if mode == "move":
        Path(source.path).touch()
    change(dest / TARGETS[0], Path(source.path))
    expected = [(TARGETS[0], reason.format(source.path))] if reason else []
    assert placing.find_prunable(dest, set()) == ([] if reason else [TARGETS[0]], expected)


def test_what_cannot_be_compared_is_kept(tmp_path, dest, monkeypatch):
    def refuse(path, other):
        raise OSError(errno.EIO, "Input/output error")

    placed_before(tmp_path, dest, "copy")
    monkeypatch.setattr(placing, "is_second_copy", refuse)
    ((target, reason),) = placing.find_prunable(dest, set())[1]
    assert target == TARGETS[0] and reason == "cannot be compared with its source: [Errno 5] Input/output error"


def test_a_label_that_is_respelled_prunes_nothing_where_the_disk_ignores_case(tmp_path, dest, monkeypatch):
    """A link stands for the disk's second spelling of the folder, and a listing without it for the file's."""
    placed_before(tmp_path, dest, "copy", "train/Squats/0.mp4")
    (dest / "train/squats").symlink_to("Squats")
    assert placing.find_prunable(dest, {"train/squats/0.mp4"}) == ([], [])
    assert placing.find_prunable(dest, {"train/squats/1.mp4"}) == (["train/Squats/0.mp4"], [])
    os.link(dest / "train/Squats/0.mp4", dest / "train/Squats/0.MP4")
    assert placing.find_prunable(dest, {"train/Squats/0.MP4"}) == (["train/Squats/0.mp4"], []), "two names here"
    monkeypatch.setattr(os, "listdir", lambda folder: ["0.mp4"])
    assert placing.find_prunable(dest, {"train/Squats/0.MP4"}) == ([], [])
    assert placing.find_prunable(dest, {"train/squats/0.MP4"}) == ([], [])


def test_a_label_that_is_respelled_prunes_the_old_one_elsewhere(tmp_path, dest):
    placed_before(tmp_path, dest, "hardlink", "train/Squats/0.mp4")
    (dest / "train/squats").mkdir()
    for _ in range(2):
        assert placing.find_prunable(dest, {"train/squats/0.mp4"}) == (["train/Squats/0.mp4"], [])
        if not (dest / "train/squats/0.mp4").exists():
            os.link(dest / "train/Squats/0.mp4", dest / "train/squats/0.mp4")
