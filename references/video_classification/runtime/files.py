"""Files that appear whole or not at all, and names that can be printed."""

import csv
import hashlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from runtime.errors import UserError, reason_of

# Python keeps the bytes 0x80 to 0xff of a file name that is not UTF-8 as the surrogates U+DC80 to U+DCFF.
_SURROGATES = {
    code: f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}" for code in range(0xD800, 0xE000)
}


# Elsewhere a name reads otherwise than its text: the bytes on the disk are UTF-8 under every locale.
IS_UTF8 = sys.getfilesystemencoding() == "utf-8"


def text_of(name: str) -> str:
    """The text of a name as `os.listdir` gives it, the same under every locale; bytes that are not UTF-8 stay."""
    return name if IS_UTF8 or name.isascii() else os.fsencode(name).decode("utf-8", "surrogateescape")


def name_of(text: str) -> str:
    """The inverse of `text_of`: how this locale spells the name of a file, for `open`."""
    return text if IS_UTF8 or text.isascii() else os.fsdecode(text.encode("utf-8", "surrogateescape"))


@contextmanager
def replaced_file(path: Path) -> Iterator[IO[bytes]]:
    """Yields a file to write that takes the name `path` when the block ends; if it fails, nothing is left behind.

    Raises OSError where it cannot be written; its `filename` is `path`, or the folder that cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        with open(temporary, "w+b") as file:  # opened by its name, which some writers want
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, usual_mode())
        os.replace(temporary, path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and (temporary is None or error.filename in (None, temporary)):
            error.filename, error.filename2 = os.fspath(path), None  # not the temporary name, which means nothing
        raise


def check_writable(flag: str, path: Path) -> None:
    """Tries to write a file of the name `path`, and leaves nothing behind: better known before the work than after it.

    Raises UserError where it cannot be written; the message begins with `flag`.
    """
    made = [folder for folder in path.parents if not folder.exists()]  # the deepest first
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"):
            pass
    except OSError as error:
        reason = f"{flag} {printable(path)} cannot be written: {reason_of(error)}"
        raise UserError(f"{reason}; choose another place") from error
    finally:
        for folder in made:
            with suppress(OSError):  # another process may have put something there
                folder.rmdir()


def take_lock(descriptor: int, waits: bool = False) -> bool:
    """Takes the lock of an open file or folder, which ends when it is closed; returns False where another has it.

    Where the system (Windows) or the disk knows no such locks, there is nothing to wait for.
    """
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        pass
    return True


def file_identity(path: Path) -> Any:
    """The same for all names of a file: train.py gives the checkpoint of an epoch several, as hard links."""
    try:
        status = path.stat()
    except OSError:  # there is none yet
        return os.path.realpath(path)  # which a link to itself does not make fail
    return status.st_dev, status.st_ino


def printable(text: object) -> str:
    """The text as valid Unicode: bytes of a file name that are not UTF-8 are shown as \\xNN."""
    return str(text).translate(_SURROGATES)


def usual_mode() -> int:
    """The permissions that `open` gives a new file; temporary files get fewer, but others may share a cache."""
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


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
