"""Shards: files of many blobs of bytes and a table about them, published whole and checked before they are read.

    blob 0 | blob 1 | ... | columns (offsets, lengths, checksums, and the cache's own) | footer

The footer holds the position and the checksum of the columns, so a truncated or foreign file is recognised at once. The
blobs' checksums are compared once for each state of the file: its size and times of change are then noted in
`verified.json`, and only a file that has changed since is read again.
"""

import contextlib
import json
import os
import struct
import tempfile
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runtime.columns import Ragged, pack_columns, unpack_columns
from runtime.errors import UserError
from runtime.files import replaced_file, take_lock, usual_mode

MAGIC = b"VCSHARD1"
FOOTER = struct.Struct("<QQI8s")  # offset and length of the columns, their checksum, MAGIC
VERIFIED = "verified.json"
CHECK_THREADS = 4
SHARD_BYTES = 256 << 20
SHARD_ROWS = 4096
SHARD_SECONDS = 60.0  # a shard is published at least this often: the most that a kill can cost


class CacheError(UserError):
    """A cache that cannot be built or used as asked; the message says what to do."""


class ShardError(RuntimeError):
    """A shard that must not be served: truncated, damaged, or another kind of file. Attribute: `path`."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}")
        self.path = path


class ShardFile:
    """Collects blobs in a temporary file that `publish` renames; nothing is left behind unless it is published."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        handle, self._temporary = tempfile.mkstemp(dir=folder, prefix=".writing-", suffix=".tmp")
        self._file = os.fdopen(handle, "wb")
        self._folder = folder
        self._offsets: list[int] = []
        self._lengths: list[int] = []
        self._checksums: list[int] = []
        self.size_bytes = 0

    def add(self, blob: bytes | memoryview) -> None:
        """Appends a blob. Raises OSError, on a full disk for one; call `discard` then."""
        self._offsets.append(self.size_bytes)
        self._lengths.append(len(blob))
        self._checksums.append(zlib.crc32(blob))
        self._file.write(blob)
        self.size_bytes += len(blob)

    def publish(self, columns: dict[str, np.ndarray | Ragged]) -> "Shard":
        """Gives the shard its final name; `columns` have a row for each blob."""
        own = {"offsets": self._offsets, "lengths": self._lengths, "checksums": self._checksums}
        packed = pack_columns({**columns, **{name: np.array(column, np.int64) for name, column in own.items()}})
        self._file.write(packed)
        self._file.write(FOOTER.pack(self.size_bytes, len(packed), zlib.crc32(packed), MAGIC))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.chmod(self._temporary, usual_mode())
        path = self._folder / f"{uuid.uuid4().hex}.shard"
        os.replace(self._temporary, path)
        return Shard(path)

    def discard(self) -> None:
        """Removes the temporary file."""
        with contextlib.suppress(OSError):
            self._file.close()
        Path(self._temporary).unlink(missing_ok=True)


class ShardWriter:
    """Writes blobs, each with a row of a table, into shards that are published when large or old enough.

    A context manager: what was added last is published when it ends, after Ctrl-C too. A failed write loses only the
    shard in progress.

    Args:
        folder: of the shards.
        columns: makes a shard's columns from its rows.
    """

    def __init__(self, folder: Path, columns: Callable[[list[Any]], dict[str, np.ndarray | Ragged]]) -> None:
        self._folder, self._columns = folder, columns
        self._file: ShardFile | None = None
        self._rows: list[Any] = []

    def __enter__(self) -> "ShardWriter":
        return self

    def add(self, blob: bytes | memoryview, row: Any) -> None:
        """Writes a blob with its row. Raises OSError."""
        if self._file is None:
            self._file, self._rows, self._start = ShardFile(self._folder), [], time.monotonic()
        self._file.add(blob)
        self._rows.append(row)
        is_old = time.monotonic() - self._start > SHARD_SECONDS
        if self._file.size_bytes > SHARD_BYTES or len(self._rows) >= SHARD_ROWS or is_old:
            self._publish(self._file)

    def _publish(self, file: ShardFile) -> None:
        shard = file.publish(self._columns(self._rows))
        self._file = None
        note_verified(self._folder, [shard])

    def __exit__(self, exception_type: type | None, *_: object) -> None:
        if self._file is None:
            return
        try:
            # Ctrl-C or a failed worker: keep what was done. A failed write: the rest cannot be written either.
            if exception_type is None or not issubclass(exception_type, OSError):
                self._publish(self._file)
        finally:
            if self._file is not None:
                self._file.discard()


class Shard:
    """A published shard: its columns in memory, its blobs memory-mapped. Raises ShardError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < FOOTER.size:
                raise ShardError(path, "is cut short")
            file.seek(size - FOOTER.size)
            offset, length, checksum, magic = FOOTER.unpack(file.read(FOOTER.size))
            if magic != MAGIC or offset + length + FOOTER.size != size:
                raise ShardError(path, "is cut short or not a shard")
            file.seek(offset)
            packed = file.read(length)
            if zlib.crc32(packed) != checksum:
                raise ShardError(path, "has a damaged table")
        self.columns = unpack_columns(packed)
        # torch's map keeps no file open: a large cache has more shards than a process may open files.
        self.data = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
        self.offsets, self.lengths = self.columns.pop("offsets"), self.columns.pop("lengths")
        self._checksums = self.columns.pop("checksums")

    def __len__(self) -> int:
        return len(self.offsets)

    def blob(self, row: int) -> np.ndarray:
        """A blob, as a uint8 view."""
        return self.data[self.offsets[row] : self.offsets[row] + self.lengths[row]]

    def verify(self) -> None:
        """Compares every blob with its checksum. Raises ShardError."""
        for row in range(len(self)):
            if zlib.crc32(self.blob(row).data) != self._checksums[row]:
                raise ShardError(self.path, "is damaged")


def open_shards(folder: Path) -> tuple[list[Shard], list[ShardError]]:
    """The valid shards of a folder, sorted by name, and what is wrong with the others."""
    stamps = _read_stamps(folder)
    paths = sorted(folder.glob("*.shard")) if folder.is_dir() else []

    def open_one(path: Path) -> Shard | ShardError | None:
        try:
            shard = Shard(path)
            if stamps.get(path.name) != _stamp(path):
                shard.verify()
            return shard
        except FileNotFoundError:  # another run has just removed it
            return None
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            return error if isinstance(error, ShardError) else ShardError(path, f"cannot be read: {error}")

    with ThreadPoolExecutor(CHECK_THREADS) as pool:
        results = list(pool.map(open_one, paths))
    shards = [result for result in results if isinstance(result, Shard)]
    note_verified(folder, shards)
    return shards, [result for result in results if isinstance(result, ShardError)]


def note_verified(folder: Path, shards: Iterable[Shard]) -> None:
    """Notes that these shards, as they are now, are whole. On a read-only disk they are checked every time instead."""
    stamps = _read_stamps(folder)
    with contextlib.suppress(FileNotFoundError):
        current = {shard.path.name: _stamp(shard.path) for shard in shards}
        if any(stamps.get(name) != stamp for name, stamp in current.items()):
            kept = {name: stamp for name, stamp in stamps.items() if (folder / name).exists()}
            with contextlib.suppress(OSError), replaced_file(folder / VERIFIED) as file:
                file.write(json.dumps({**kept, **current}).encode())


@contextlib.contextmanager
def build_lock(folder: Path) -> Iterator[None]:
    """A lock to hold while building: a second run waits, and then finds the work done.

    Raises OSError where `folder` cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "wb") as file:
        if not take_lock(file.fileno()):
            print(f"Another run is building {folder}: waiting for it", flush=True)
            take_lock(file.fileno(), waits=True)
        yield


def remove_leftovers(folder: Path) -> None:
    """Removes what killed runs left unfinished; call it with the lock held."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def _read_stamps(folder: Path) -> dict[str, list[int]]:
    try:
        stamps = json.loads((folder / VERIFIED).read_bytes())
    except (OSError, ValueError):
        return {}
    return stamps if isinstance(stamps, dict) else {}


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
