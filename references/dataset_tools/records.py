"""What the dataset scripts remember about a tree, in `.dataset_tools` at its root.

`placed.jsonl`     one `[path, bytes, mtime_ns, source]` for every file that the refactorer put there
`withdrawn.jsonl`  one `{"path", "status"}` for every file that check_videos.py quarantined, remuxed or restored
`lock`             held by the refactorer while it works

Lines are only ever appended, ahead of what they record. A process killed while writing leaves at most one broken
line, which readers skip. Names are in them as text, the same under every locale.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from references.dataset_tools import names
from references.dataset_tools.progress import printable_name

try:
    import fcntl
except ImportError:  # Windows, where two runs on one tree do not wait for each other
    fcntl = None  # type: ignore[assignment]

FOLDER = ".dataset_tools"


class RecordError(ValueError):
    """A file that these scripts keep holds what they did not write."""


def append_lines(path: Path, records: Iterable[object], durable: bool = False) -> None:
    """Append one line of JSON for each record, in one write; `durable` waits until they are on the disk."""
    as_text = records if names.IS_UTF8 else map(_with_texts, records)
    data = "".join(json.dumps(record) + "\n" for record in as_text).encode()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        if size:
            os.lseek(descriptor, size - 1, os.SEEK_SET)
            if os.read(descriptor, 1) != b"\n":
                data = b"\n" + data  # ends a line that a killed process left broken
        view = memoryview(data)
        with named(path):
            while view:
                view = view[os.write(descriptor, view) :]
            if durable:
                os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def named(path: str | Path) -> Iterator[None]:
    """Have an OSError of a write, as on a full disk, name the file at `path`."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or os.fspath(path)
        raise


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[IO[str]]:
    """A text file that takes the name `path` once it is complete; if it fails, nothing is left behind."""
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:32]  # short, however long the name
    partial = os.path.join(os.path.dirname(path), f".{digest}.{os.getpid()}.partial")
    try:
        with named(path), open(partial, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            yield file
        os.replace(partial, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial)


def read_lines(path: Path) -> Iterator[Any]:
    """The records in a file written by `append_lines`; none where there is no such file."""
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            with contextlib.suppress(ValueError):  # broken by a kill
                record = json.loads(line)
                yield record if names.IS_UTF8 else _with_names(record)


def _with_texts(record: object) -> Any:
    return json.loads(names.to_text(json.dumps(record, ensure_ascii=False)))


def _with_names(record: object) -> Any:
    return json.loads(names.to_name(json.dumps(record, ensure_ascii=False)))


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn a failure to understand records from `path` into a RecordError that names it."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        shown = printable_name(str(path))
        raise RecordError(f"{shown} holds lines that this script did not write; move it away") from error


@contextlib.contextmanager
def locked(path: Path, waiting: str) -> Iterator[None]:
    """Hold the lock file at `path`; where another process has it, print `waiting` and wait for it.

    On Windows there is no such lock, and nothing is waited for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting:
                    print(waiting, flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def read_placed(root: Path) -> dict[str, tuple[int, int, str]]:
    """Path under root -> bytes, mtime_ns and source of every file that was ever placed there."""
    path = root / FOLDER / "placed.jsonl"
    with explained(path):
        return {target: (size, mtime_ns, source) for target, size, mtime_ns, source in read_lines(path)}


def read_withdrawn(root: Path) -> dict[str, str]:
    """Path under root -> "quarantined" or "remuxed", for what check_videos.py has taken away or repaired since."""
    path, status_of = root / FOLDER / "withdrawn.jsonl", {}
    with explained(path):
        for record in read_lines(path):
            status_of[record["path"]] = record["status"]
    return {path: status for path, status in status_of.items() if status in ("quarantined", "remuxed")}


def record_withdrawn(root: Path, paths: list[str], status: str) -> None:
    """Note that the files at `paths` (relative to root) are now "quarantined", "remuxed", "restored" or "put back"."""
    if paths:
        (root / FOLDER).mkdir(exist_ok=True)
        append_lines(root / FOLDER / "withdrawn.jsonl", [{"path": path, "status": status} for path in paths])
