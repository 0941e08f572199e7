"""What the dataset scripts remember about a tree, in `.dataset_tools` at its root; a room of its own, as both use it.

`placed.jsonl`     one `[path, bytes, mtime_ns, source]` for every file that the refactorer put there
`withdrawn.jsonl`  one `{"path", "status"}` for every file that check_videos.py quarantined, remuxed or restored
`lock`             held by the refactorer while it works

Lines are only ever added, ahead of what they tell of. A process killed while writing leaves at most one broken
line, which readers pass over.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

FOLDER = ".dataset_tools"


class RecordError(ValueError):
    """A file that these scripts keep holds what they did not write."""


def append_lines(path: Path, records: Iterable[object], durable: bool = False) -> None:
    """Adds one line of JSON for each record, in one write; `durable` waits until they are on the disk."""
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            data = b"\n" + data  # ends a line that a killed process left broken
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_lines(path: Path) -> Iterator[object]:
    """The records in a file written by `append_lines`; none where there is no such file."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            with contextlib.suppress(ValueError):  # broken by a kill
                yield json.loads(line)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns the failure to understand records from `path` into a RecordError that names it."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{path} holds lines that this script did not write; move it away") from error


@contextlib.contextmanager
def locked(path: Path, waiting: str) -> Iterator[None]:
    """Holds the lock file at `path`; prints `waiting` where another process has it, and waits for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                print(waiting, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_withdrawn(root: Path) -> dict[str, str]:
    """Path under root -> "quarantined" or "remuxed", for what check_videos.py has taken away or repaired since."""
    path, status_of = root / FOLDER / "withdrawn.jsonl", {}
    with explained(path):
        for record in read_lines(path):
            status_of[record["path"]] = record["status"]
    return {path: status for path, status in status_of.items() if status in ("quarantined", "remuxed")}


def record_withdrawn(root: Path, paths: list[str], status: str) -> None:
    """Notes that the files at `paths` (relative to root) are now "quarantined", "remuxed", "restored" or "put back"."""
    if paths:
        (root / FOLDER).mkdir(exist_ok=True)
        append_lines(root / FOLDER / "withdrawn.jsonl", [{"path": path, "status": status} for path in paths])
