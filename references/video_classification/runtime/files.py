"""Files that appear whole or not at all, and names that can be printed."""

import json
import os
import tempfile
from collections.abc import Iterator
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
