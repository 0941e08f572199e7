"""Putting source files in their places: atomic, resumable, never over another file."""

import contextlib
import errno
import functools
import os
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from references.dataset_tools.comparing import is_second_copy, same_bytes
from references.dataset_tools.names import folded
from references.dataset_tools.planning import PARTIAL_ENDING, Placement
from references.dataset_tools.records import FOLDER, append_lines, read_placed
from references.dataset_tools.sources import SourceFile

FILES_PER_BATCH = 512
NOT_LINKABLE = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
STOPPING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class PlacingError(RuntimeError):
    """Placing had to stop; what was placed so far is whole, and a rerun goes on from there."""


class Placed(NamedTuple):
    """What became of the placements: how many were placed in which way, and `(target, reason)` of the failed."""

    ways: Counter[str]
    failures: list[tuple[str, str]]


def place_all(
    placements: list[Placement],
    dest: Path,
    mode: str,
    jobs: int,
    advance: Callable[[int], None],
    verify: bool = False,
) -> Placed:
    """Place every file.

    Each batch is recorded under `dest` before it is placed. A file that cannot be placed is a failure, and the others
    are placed. Raises PlacingError where no other could be placed either, such as on a full disk.

    Args:
        placements: the files, with their targets relative to dest.
        dest: the destination.
        mode: a key of PLACERS.
        jobs: number of threads.
        advance: called with the number of files of each batch that is done.
        verify: with mode "move", compare the bytes before a source is removed; a copy that differs is a failure.
    """
    total = Placed(Counter(), [])
    place = functools.partial(move, verify=verify) if mode == "move" else PLACERS[mode]
    for folder in {os.path.dirname(placement.target) for placement in placements}:
        (dest / folder).mkdir(parents=True, exist_ok=True)
    batches, stop = list(_batches(sorted(placements))), threading.Event()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            results = pool.map(lambda batch: _place_batch(batch, dest, place, stop), batches)
            for batch, placed in zip(batches, results, strict=True):
                total.ways.update(placed.ways)
                total.failures.extend(placed.failures)
                advance(len(batch))
        except BaseException as error:  # Ctrl-C too: the files under way are completed, no others are begun
            stop.set()
            pool.shutdown(cancel_futures=True)
            if not isinstance(error, OSError) or error.errno not in STOPPING:
                raise
            what_to_do = "make room and run again; what was placed is whole and is kept"
            raise PlacingError(f"stopped placing files: {error}; {what_to_do}") from error
    return total


def _batches(placements: list[Placement]) -> Iterator[list[Placement]]:
    for _, group in groupby(placements, key=lambda placement: os.path.dirname(placement.target)):
        files = list(group)
        for start in range(0, len(files), FILES_PER_BATCH):
            yield files[start : start + FILES_PER_BATCH]


def _place_batch(
    batch: list[Placement], dest: Path, place: Callable[[SourceFile, str], str], stop: threading.Event
) -> Placed:
    placed, prefix = Placed(Counter(), []), f"{dest}/"
    lines = [(target, source.bytes, source.mtime_ns, source.path) for target, source in batch]
    append_lines(dest / FOLDER / "placed.jsonl", lines)
    for target, source in batch:
        if stop.is_set():
            break
        try:
            placed.ways[place(source, prefix + target)] += 1
        except FileExistsError:
            placed.failures.append((target, "a file that was not there before is in its place now; run again"))
        except OSError as error:
            if error.errno in STOPPING:
                stop.set()  # here, before this thread begins the next batch
                raise
            reason = error.strerror or str(error)
            is_of_source = error.filename == source.path and error.filename2 is None
            placed.failures.append((target, f"{source.path}: {reason}" if is_of_source else reason))
    return placed


def hard_link(source: SourceFile, target: str) -> str:
    os.link(source.path, target)
    return "hard link"


def symbolic_link(source: SourceFile, target: str) -> str:
    os.symlink(source.path, target)
    return "symbolic link"


def copy(source: SourceFile, target: str) -> str:
    handle, partial = tempfile.mkstemp(dir=os.path.dirname(target), prefix=".", suffix=PARTIAL_ENDING)
    os.close(handle)
    try:
        shutil.copy2(source.path, partial)
        if os.path.getsize(partial) != source.bytes:
            raise OSError(errno.EIO, "its source changed while it was copied")
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "a file that was not there before", target)
        os.rename(partial, target)
    except BaseException:
        os.unlink(partial)
        raise
    return "copy"


def link_or_copy(source: SourceFile, target: str) -> str:
    try:
        return hard_link(source, target)
    except OSError as error:
        if error.errno not in NOT_LINKABLE:
            raise
    return copy(source, target)


def move(source: SourceFile, target: str, verify: bool = False) -> str:
    link_or_copy(source, target)  # a rename would go over a file that came in between
    if verify:
        _drop_unless_same(source, target)
    _remove_moved(source, target)
    return "move"


def _drop_unless_same(source: SourceFile, copy: str) -> None:
    """Remove `copy` and raise OSError where its bytes are not those of its source."""
    if not same_bytes(source.path, copy):
        os.unlink(copy)
        raise OSError(errno.EIO, f"its copy differs from its source {source.path}, which is kept")


def _remove_moved(source: SourceFile, target: str) -> None:
    """Remove the source of what is whole at `target`; a copy is on the disk before that."""
    if os.name != "nt" and not os.path.samefile(source.path, target):  # Windows has no fsync of what is open to read
        for path in (target, os.path.dirname(target)):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    os.unlink(source.path)


PLACERS: dict[str, Callable[..., str]] = {  # `move` is told whether to verify, too
    "auto": link_or_copy,
    "hardlink": hard_link,
    "symlink": symbolic_link,
    "copy": copy,
    "move": move,
}


def finish_moves(moves: list[tuple[str, SourceFile]], dest: Path, dry_run: bool) -> tuple[int, list[tuple[str, str]]]:
    """Remove the sources of files that are in place already: of a killed move, or placed by another mode.

    `moves` are targets that are in place, with the source of that name that is still there. A symbolic link in place is
    replaced by the file that it leads to. Returns the number of sources removed, and `(target, reason)` of those kept.
    Raises PlacingError on a full disk.
    """
    recorded = {target: source for target, (_, _, source) in read_placed(dest).items()} if moves else {}
    finished, kept = 0, []
    for target, source in moves:
        if recorded.get(target) != source.path:
            continue
        try:
            if problem := _finish_move(source, f"{dest}/{target}", dry_run):
                kept.append((target, problem))
            else:
                finished += 1
        except OSError as error:
            if error.errno in STOPPING:
                raise PlacingError(f"stopped moving {target}: {error}; make room and run again") from error
            kept.append((target, error.strerror or str(error)))
    return finished, kept


def _finish_move(source: SourceFile, target: str, dry_run: bool) -> str | None:
    """Remove `source`, once `target` holds its bytes without it. Returns why it is kept, or None."""
    if os.path.islink(target) and os.path.realpath(target) == source.path:
        if not dry_run:
            _replace_link(source, target)
    elif os.path.islink(target) or not is_second_copy(source.path, target):
        return f"is not what was placed, so its source {source.path} is kept"
    if not dry_run:
        _remove_moved(source, target)
    return None


def _replace_link(source: SourceFile, target: str) -> None:
    """Replace a symbolic link to the file by the file itself, in one rename."""
    partial = f"{os.path.dirname(target)}/.link{PARTIAL_ENDING}"
    with contextlib.suppress(FileNotFoundError):  # of a link that could not be replaced
        os.unlink(partial)
    link_or_copy(source, partial)
    _drop_unless_same(source, partial)
    os.replace(partial, target)


def find_prunable(dest: Path, wanted: set[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Find files placed under `dest` that are no longer `wanted`: those to remove, and `(path, reason)` of the kept.

    Removed are links, and files whose source goes on holding the same bytes: never the only copy, nor what is wanted
    under another spelling, on a disk to which the two are one name.
    """
    prunable, kept = [], []
    unwanted = {
        target: facts
        for target, facts in sorted(read_placed(dest).items())
        if target not in wanted and os.path.lexists(f"{dest}/{target}")
    }
    spelled_alike = {folded(target): target for target in wanted} if unwanted else {}
    for target, (size, mtime_ns, source) in unwanted.items():
        other = spelled_alike.get(folded(target))
        if other is None or not _is_one_name(f"{dest}/{target}", f"{dest}/{other}"):
            if reason := _reason_to_keep(f"{dest}/{target}", size, mtime_ns, source):
                kept.append((target, reason))
            else:
                prunable.append(target)
    return prunable, kept


def _is_one_name(path: str, other: str) -> bool:
    """Whether two spellings of a path, of which the first exists, lead to one name in one folder."""
    (folder, name), (other_folder, other_name) = os.path.split(path), os.path.split(other)
    if not os.path.lexists(other) or not os.path.samefile(folder, other_folder):
        return False
    return name == other_name or not {name, other_name} <= set(os.listdir(folder))


def _reason_to_keep(path: str, size: int, mtime_ns: int, source: str) -> str | None:
    """Why `path`, recorded to be placed from `source`, may not be removed; None where it may."""
    if os.path.islink(path):
        return None if os.readlink(path) == source else "it was changed since it was placed"
    if not os.path.exists(source):
        return f"its source {source} is gone, so this may be the only copy"
    try:
        if is_second_copy(path, source):
            return None
    except OSError as error:
        return f"cannot be compared with its source: {error}"
    stat = os.stat(path)
    if (stat.st_size, stat.st_mtime_ns) != (size, mtime_ns):
        return "it was changed since it was placed"
    return f"its source {source} is another file now, so this may be the only copy"


def remove(dest: Path, targets: list[str]) -> None:
    """Remove the files, and the class folders that this leaves empty (a folder without videos would be a class)."""
    for target in targets:
        os.unlink(dest / target)
    for folder in {os.path.dirname(target) for target in targets}:
        with contextlib.suppress(OSError):  # not empty
            os.rmdir(dest / folder)
