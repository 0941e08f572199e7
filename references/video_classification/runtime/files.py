"""Files that appear whole or not at all, and names that can be printed."""

import csv
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def replaced_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes the name `path` when the block ends, and leaves nothing behind when it fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, usual_mode())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def printable(text: object) -> str:
    """Any text as valid Unicode: the bytes of a file name that are no UTF-8 are spelled out."""
    return str(text).encode("utf-8", "backslashreplace").decode()


def usual_mode() -> int:
    """The rights of a file that `open` makes, which temporary files do not have: others may share a cache."""
    mask = os.umask(0o022)
    os.umask(mask)
    return 0o666 & ~mask


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    with replaced_file(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Writes a CSV file, whole or not at all; bytes of file names that are not UTF-8 are kept."""
    with replaced_file(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        csv.writer(text, lineterminator="\n").writerows(rows)
        text.detach()


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
