"""Every test runs on one disk and on two: a rename or link between two folders then fails, as it does between disks."""

import errno
import os
import stat
from pathlib import Path

import pytest

from references.dataset_tools import moving
from references.dataset_tools.moving import give_second_name, identify, is_temporary_name, move, move_over, settle


def refuse_between_folders(change):
    def call(source, target, **options):
        if os.path.dirname(source) != os.path.dirname(target):
            raise OSError(errno.EXDEV, "Invalid cross-device link", source)
        return change(source, target, **options)

    return call


@pytest.fixture
def two_disks(monkeypatch):
    for name in ("rename", "replace", "link"):
        monkeypatch.setattr(os, name, refuse_between_folders(getattr(os, name)))


@pytest.fixture(params=["one disk", "two disks"])
def disks(request):
    if request.param == "two disks":
        request.getfixturevalue("two_disks")
    return request.param


@pytest.fixture
def here(tmp_path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


@pytest.fixture
def there(tmp_path) -> Path:
    return tmp_path / "there"


def make(path: Path, kind: str) -> str:
    """Makes something of the kind at `path`, which is returned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "file":
        path.write_bytes(b"original")
        os.utime(path, ns=(10**18, 10**18 + 7))
    elif kind == "other file":
        path.write_bytes(b"somebody's")
    elif kind == "empty file":
        path.touch()
    elif kind == "link":
        make(path.parent.parent / "outside", "file")
        path.symlink_to("../outside")
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
        if kind == "folder":
            make(path / "deep" / "file", "file")
            (path / "link").symlink_to("deep/file")
    return str(path)


def describe(path: Path) -> object:
    """What is at `path`, comparable with what was somewhere else."""
    if not os.path.lexists(path):
        return None
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return "link", os.readlink(path)
    if stat.S_ISDIR(mode):
        return {item.name: describe(item) for item in path.iterdir()}
    return ("file", path.read_bytes(), path.stat().st_mtime_ns) if stat.S_ISREG(mode) else ("other", stat.S_IFMT(mode))


KINDS = ["file", "empty file", "link", "dangling link", "pipe", "folder", "empty folder"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_moved_is_the_same_elsewhere(here, there, disks, kind):
    for name in ("first", "second"):  # into a folder that is made for it, then into one that is there
        source, target = make(here / name, kind), there / "deep" / name
        before = describe(here / name)
        move(source, str(target))
        assert describe(target) == before and not os.path.lexists(source)
    assert sorted(os.listdir(there / "deep")) == ["first", "second"]


@pytest.mark.parametrize("taken", ["other file", "empty file", "folder", "empty folder", "dangling link"])
@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_a_taken_name_is_not_moved_to(here, there, disks, kind, taken):
    source, target = make(here / "name", kind), make(there / "name", taken)
    before = describe(here), describe(there)
    with pytest.raises(FileExistsError):
        move(source, target)
    assert (describe(here), describe(there)) == before


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_a_move_that_is_refused_leaves_all_as_it_was(here, there, monkeypatch, kind):
    def refuse(source, target):
        raise PermissionError(errno.EACCES, "Permission denied", source)

    source = make(here / "name", kind)
    before = describe(here)
    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(PermissionError):
        move(source, str(there / "name"))
    assert describe(here) == before and describe(there) == {}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("action", [move, give_second_name])
def test_a_copy_that_ends_early_leaves_nothing_of_itself(here, there, two_disks, monkeypatch, action, error):
    def copy_half(source, target):
        Path(target).write_bytes(b"orig")
        raise error

    source = make(here / "name", "file")
    before = describe(here)
    monkeypatch.setitem(moving.COPIERS, stat.S_IFREG, copy_half)
    with pytest.raises(type(error)):
        action(source, str(there / "name"))
    assert describe(here) == before and describe(there) == {}


def test_what_cannot_be_copied_stays(here, there, two_disks, monkeypatch):
    monkeypatch.delitem(moving.COPIERS, stat.S_IFIFO)  # as for a socket or a device
    with pytest.raises(OSError, match="it is of a kind that cannot be moved to another file system"):
        move(make(here / "pipe", "pipe"), str(there / "pipe"))
    assert describe(here) == {"pipe": ("other", stat.S_IFIFO)} and describe(there) == {}


@pytest.mark.parametrize("leftover", ["other file", "folder"])
def test_a_killed_copy_is_not_in_the_way_of_the_next(here, there, two_disks, leftover):
    target = str(there / "name")
    make(Path(moving.temporary_name(target, ".partial")), leftover)
    source = make(here / "name", "file")
    before = describe(here)
    move(source, target)
    assert describe(there) == before


def test_a_copy_is_on_the_disk_before_the_original_goes(here, there, two_disks, monkeypatch):
    on_disk, unlink = [], os.unlink
    monkeypatch.setattr(os, "fsync", lambda descriptor: on_disk.append(os.fstat(descriptor).st_ino))

    def check_unlink(path):
        assert on_disk == [os.stat(there / "name").st_ino]
        unlink(path)

    source = make(here / "name", "file")
    monkeypatch.setattr(os, "unlink", check_unlink)
    move(source, str(there / "name"))
    assert describe(here) == {}


def test_a_file_is_moved_over_another(here, there, disks):
    source, target = make(here / "name", "file"), make(there / "name", "other file")
    before = describe(here)
    move_over(source, target)
    assert describe(there) == before and describe(here) == {}


def test_a_file_that_cannot_be_moved_over_another_leaves_both(here, there, monkeypatch):
    def refuse(source, target):
        raise PermissionError(errno.EACCES, "Permission denied", source)

    source, target = make(here / "name", "file"), make(there / "name", "other file")
    before = describe(here), describe(there)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        move_over(source, target)
    assert (describe(here), describe(there)) == before


@pytest.mark.parametrize("kind", ["file", "link", "dangling link"])
def test_a_second_name(here, there, disks, kind):
    for name in ("first", "second"):
        source, target = make(here / name, kind), there / "deep" / name
        give_second_name(source, str(target))
        assert describe(target) == describe(here / name)
        assert os.path.samestat(os.lstat(source), os.lstat(target)) == (disks == "one disk")
    assert sorted(os.listdir(there / "deep")) == ["first", "second"]


def test_a_second_name_that_is_taken(here, there, disks):
    source, target = make(here / "name", "file"), make(there / "name", "other file")
    before = describe(here), describe(there)
    with pytest.raises(FileExistsError):
        give_second_name(source, target)
    assert (describe(here), describe(there)) == before


def test_a_second_name_that_the_disk_refuses(here, there, monkeypatch):
    def refuse(source, target, **options):
        raise OSError(errno.EIO, "Input/output error", source)

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match="Input/output error"):
        give_second_name(make(here / "name", "file"), str(there / "name"))
    assert describe(there) == {}


def test_temporary_names():
    # The first half of what `printf a/b.mp4 | sha256sum` prints.
    name = moving.temporary_name("a/b.mp4", ".remux")
    assert name == "a/.b0a066fc48626e7b7275e29577b3c18f.remux"
    assert is_temporary_name(name[2:], ".remux")
    others = [".mine.remux", f"x{name[2:]}", name[3:], f"{name[2:]}x", name[2:-6] + ".partial", name[2:].upper()]
    assert not any(is_temporary_name(other, ".remux") for other in others)
    assert moving.temporary_name("b.mp4", ".remux") != moving.temporary_name("a.mp4", ".remux")


# What a kill may have left: at the source, at the target -> whether the original is at the target, what stays there.
# "original" is what was to be moved, "copy" holds the same.
STATES = {
    "nothing was done": ("original", None, False, None),
    "the name was taken": ("original", "empty file", False, None),
    "it was copied": ("original", "copy", False, None),
    "somebody else's file came": ("original", "other file", False, "other file"),
    "somebody else's link came": ("original", "dangling link", False, "dangling link"),
    "somebody else's folder came": ("original", "folder", False, "folder"),
    "somebody else's pipe came": ("original", "pipe", False, "pipe"),
    "it was moved": (None, "original", True, "original"),
    "it was moved, and another came": ("other file", "original", True, "original"),
    "it was copied and removed": (None, "copy", True, "copy"),
    "it is lost to somebody": (None, None, False, None),
    "it is lost, the name was taken": (None, "empty file", False, None),
    "another came, the name was taken": ("other file", "empty file", False, None),
}


@pytest.mark.parametrize("has_partial", [False, True])
@pytest.mark.parametrize("state", STATES)
def test_what_a_kill_left_is_settled(here, there, state, has_partial):
    at_source, at_target, is_moved, stays = STATES[state]
    original = make(here.parent / "original", "file")
    identity, source, target = identify(original), str(here / "name"), str(there / "name")
    there.mkdir()
    for path, kind in ((here / "name", at_source), (there / "name", at_target)):
        if kind == "copy":
            make(path, "file")
        elif kind not in (None, "original"):
            make(path, kind)
    if "original" in (at_source, at_target):
        os.rename(original, source if at_source == "original" else target)
    if has_partial:
        make(Path(moving.temporary_name(target, ".partial")), "other file")
    before = describe(here), describe(there / "name")
    assert settle(source, target, identity) is is_moved
    assert describe(here) == before[0]
    assert describe(there) == ({} if stays is None else {"name": before[1]})


@pytest.mark.parametrize(
    "kind, at_target, stays",
    [
        ("link", "link", False),
        ("link", "dangling link", True),
        ("link", "empty file", False),
        ("folder", "empty folder", False),
        ("folder", "folder", True),
        ("empty file", "empty file", False),
    ],
)
def test_the_place_holder_of_any_kind_is_removed(here, there, kind, at_target, stays):
    source, target = make(here / "name", kind), make(there / "name", at_target)
    assert settle(source, target, identify(source)) is False
    assert os.path.lexists(source) and os.path.lexists(target) is stays


def test_an_empty_file_that_was_moved_is_not_taken_for_a_place_holder(here, there):
    source, target = make(here / "name", "empty file"), str(there / "name")
    identity = identify(source)
    move(source, target)
    assert settle(source, target, identity) is True and os.path.exists(target)
