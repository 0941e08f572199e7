"""Files that hold many blobs of bytes and a table about them, published whole, checked before they are read. A room of
its own under the clip cache and the feature cache: one place decides what a valid cache file is.

    blob 0 | blob 1 | ... | columns (offsets, lengths, checksums, and the cache's own) | footer

The footer says where the columns lie and carries their checksum, so a file that was cut short or is another's is known
at once. The blobs' own checksums are read once for each state of the file: whoever has compared them notes its size and
times of change in `verified.json`, and only a file that has changed since is read again.
"""

import contextlib
import json
import os
import struct
import tempfile
import uuid
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from runtime.columns import Ragged, pack_columns, unpack_columns
from runtime.files import replaced_file, usual_mode

MAGIC = b"VCSHARD1"
FOOTER = struct.Struct("<QQI8s")  # offset and length of the columns, their checksum, MAGIC
VERIFIED = "verified.json"
CHECK_THREADS = 4


class ShardError(RuntimeError):
    """A shard that must not be served: cut short, damaged, or not a shard. Attribute: `path`."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}")
        self.path = path


class ShardWriter:
    """Collects blobs in a temporary file; `publish` gives it its name. Nothing stays behind unless published."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        handle, self._temporary = tempfile.mkstemp(dir=folder, prefix=".writing-", suffix=".tmp")
        self._file = os.fdopen(handle, "wb")
        self._folder = folder
        self._offsets: list[int] = []
        self._lengths: list[int] = []
        self._checksums: list[int] = []
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._offsets)

    def add(self, blob: bytes | memoryview) -> None:
        """Appends a blob. Raises OSError, on a full disk for one; call `discard` then."""
        self._offsets.append(self.size_bytes)
        self._lengths.append(len(blob))
        self._checksums.append(zlib.crc32(blob))
        self._file.write(blob)
        self.size_bytes += len(blob)

    def publish(self, columns: dict[str, np.ndarray | Ragged]) -> "Shard":
        """Gives the shard its final name; `columns` hold a row a blob."""
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
        """Takes the temporary file away."""
        with contextlib.suppress(OSError):
            self._file.close()
        Path(self._temporary).unlink(missing_ok=True)


class Shard:
    """A published shard: its columns in memory, its blobs mapped.

    Raises:
        ShardError: see there.
    """

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
        # Mapped by torch, which keeps no file open: a large cache has more shards than a process may open files.
        self.data = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
        self.offsets, self.lengths = self.columns.pop("offsets"), self.columns.pop("lengths")
        self._checksums = self.columns.pop("checksums")

    def __len__(self) -> int:
        return len(self.offsets)

    def blob(self, row: int) -> np.ndarray:
        """uint8 view of a blob."""
        return self.data[self.offsets[row] : self.offsets[row] + self.lengths[row]]

    def verify(self) -> None:
        """Compares every blob with its checksum. Raises ShardError."""
        for row in range(len(self)):
            if zlib.crc32(self.blob(row)) != self._checksums[row]:
                raise ShardError(self.path, "is damaged")


def open_shards(folder: Path) -> tuple[list[Shard], list[ShardError]]:
    """The valid shards of a folder, by name, and what is wrong with the others."""
    stamps = _read_stamps(folder)
    paths = sorted(folder.glob("*.shard")) if folder.is_dir() else []

    def open_one(path: Path) -> Shard | ShardError | None:
        try:
            shard = Shard(path)
            if stamps.get(path.name) != _stamp(path):
                shard.verify()
            return shard
        except FileNotFoundError:  # another run has just taken it away
            return None
        except (RuntimeError, OSError, ValueError, KeyError) as error:
            return error if isinstance(error, ShardError) else ShardError(path, f"cannot be read: {error}")

    with ThreadPoolExecutor(CHECK_THREADS) as pool:
        results = list(pool.map(open_one, paths))
    shards = [result for result in results if isinstance(result, Shard)]
    note_verified(folder, shards)
    return shards, [result for result in results if isinstance(result, ShardError)]


def note_verified(folder: Path, shards: Iterable[Shard]) -> None:
    """Notes that these shards, as they are now, are whole. On a disk that is read-only they are checked every time."""
    stamps = _read_stamps(folder)
    with contextlib.suppress(FileNotFoundError):
        current = {shard.path.name: _stamp(shard.path) for shard in shards}
        if any(stamps.get(name) != stamp for name, stamp in current.items()):
            kept = {name: stamp for name, stamp in stamps.items() if (folder / name).exists()}
            with contextlib.suppress(OSError), replaced_file(folder / VERIFIED) as file:
                file.write(json.dumps({**kept, **current}).encode())


@contextlib.contextmanager
def build_lock(folder: Path) -> Iterator[None]:
    """Held while building, so that a second run waits and then finds the work done instead of doing it twice.

    Raises OSError where `folder` cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        try:
            import fcntl
        except ImportError:  # not POSIX: two runs would both build, which costs time only
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Another run is building {folder}: waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
        yield


def remove_leftovers(folder: Path) -> None:
    """Takes away what killed runs left unfinished; call with the lock held."""
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
