"""Moves that never overwrite and that a kill cannot tear, of any kind of file, also between file systems.

A free name is taken first, by an empty place holder; then one rename over it puts the whole thing there. Between file
systems that is the rename of a complete copy, after which the original is removed.
"""

import errno
import hashlib
import os
import re
import shutil
import stat
from typing import NamedTuple

from references.dataset_tools.comparing import same_bytes
from references.dataset_tools.placing import NOT_LINKABLE, PARTIAL_ENDING

REMUX_ENDING = ".remux"  # of a remux under way: hidden, and no video's ending, so nothing takes it for one
ANOTHER_FILE_SYSTEM = {errno.EXDEV}


class Identity(NamedTuple):
    """How the thing that was to be moved is known again after a kill; a rename keeps all of it."""

    inode: int
    bytes: int
    mtime_ns: int


def identify(path: str) -> Identity:
    found = os.lstat(path)
    return Identity(found.st_ino, found.st_size, found.st_mtime_ns)


def temporary_name(path: str, ending: str) -> str:
    """A hidden name beside `path` that no other path gets, and that is short however long the name in `path` is."""
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]
    return os.path.join(os.path.dirname(path), f".{digest}{ending}")


def is_temporary_name(name: str, ending: str) -> bool:
    """Whether `temporary_name` made this name."""
    return name.endswith(ending) and re.fullmatch(r"\.[0-9a-f]{32}", name.removesuffix(ending)) is not None


def move(source: str, target: str) -> None:
    """Move what is at `source` (a link as a link) to the free name `target`.

    Raises FileExistsError where the name is taken, OSError where it cannot be moved; then all is as before.
    """
    _reserve(target, is_folder=_kind(source) == stat.S_IFDIR)
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno not in ANOTHER_FILE_SYSTEM:
            _drop(target)
            raise
        _copy_to_reserved(source, target)
        _drop(source)


def move_over(source: str, target: str) -> None:
    """Move the file `source` over the file `target`, in one rename."""
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno not in ANOTHER_FILE_SYSTEM:
            raise
        _copy_over(source, target)
        os.unlink(source)


def give_second_name(source: str, target: str) -> None:
    """Keep what is at `source` also at the free name `target`, by hard link where possible, else by copy."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NOT_LINKABLE:
            raise
        _reserve(target, is_folder=False)
        _copy_to_reserved(source, target)


def settle(source: str, target: str, identity: Identity) -> bool:
    """Clean up after a move that may have been killed. Returns whether the original is at `target`, not at `source`.

    While the original is at `source`, only place holders and copies of it are taken away from `target`.
    """
    _drop_if_there(_partial(target))
    if os.path.lexists(source) and identify(source) == identity:
        if os.path.lexists(target) and (_is_empty(target) or _is_same(source, target)):
            _drop(target)
        return False
    if os.path.lexists(target) and identity.bytes and _is_empty(target):
        _drop(target)
    return os.path.lexists(target)


def _reserve(target: str, is_folder: bool) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if is_folder:
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))


def _copy_to_reserved(source: str, target: str) -> None:
    try:
        _copy_over(source, target)
    except BaseException:
        _drop(target)
        raise


def _copy_over(source: str, target: str) -> None:
    partial = _partial(target)
    _drop_if_there(partial)
    try:
        copy = COPIERS.get(_kind(source))
        if copy is None:
            raise OSError(errno.EXDEV, "it is of a kind that cannot be moved to another file system", source)
        copy(source, partial)
        os.replace(partial, target)
    except BaseException:
        _drop_if_there(partial)
        raise


def _copy_file(source: str, target: str) -> None:
    shutil.copy2(source, target)
    with open(target, "rb") as file:  # the original is removed after this, so the copy must be on the disk
        os.fsync(file.fileno())


COPIERS = {
    stat.S_IFREG: _copy_file,
    stat.S_IFLNK: lambda source, target: os.symlink(os.readlink(source), target),
    stat.S_IFIFO: lambda source, target: os.mkfifo(target),
    stat.S_IFDIR: lambda source, target: shutil.copytree(source, target, symlinks=True),
}


def _partial(target: str) -> str:
    return temporary_name(target, PARTIAL_ENDING)


def _kind(path: str) -> int:
    return stat.S_IFMT(os.lstat(path).st_mode)


def _is_empty(path: str) -> bool:
    if _kind(path) == stat.S_IFDIR:
        return not os.listdir(path)
    return _kind(path) == stat.S_IFREG and os.path.getsize(path) == 0


def _is_same(first: str, second: str) -> bool:
    if _kind(first) != _kind(second):
        return False
    if _kind(first) == stat.S_IFLNK:
        return os.readlink(first) == os.readlink(second)
    return _kind(first) == stat.S_IFREG and same_bytes(first, second)


def _drop(path: str) -> None:
    if _kind(path) == stat.S_IFDIR:
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _drop_if_there(path: str) -> None:
    if os.path.lexists(path):
        _drop(path)
