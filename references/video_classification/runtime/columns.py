"""Columns of values about many videos, without a Python object for each."""

import io
import os
import threading
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np

from runtime.files import name_of, text_of

ROWS_AT_ONCE = 4096  # rearranged together: positions take eight times the memory of the bytes they point to

# numpy parses an array's header with `ast.literal_eval`, which fails with a SystemError when threads use it at once in
# CPython before 3.11.8 and 3.12.2 (python/cpython#106905): a whole file would be called damaged.
_header_lock = threading.Lock()


class Ragged:
    """Rows of different lengths in one flat array: row i is `flat[offsets[i] : offsets[i + 1]]`."""

    def __init__(self, flat: np.ndarray, offsets: np.ndarray) -> None:
        self.flat, self.offsets = flat, offsets

    @classmethod
    def of(cls, rows: Iterable[np.ndarray], dtype: type) -> "Ragged":
        """Packs one-dimensional arrays."""
        rows = [np.asarray(row, dtype) for row in rows]
        return cls(np.concatenate([np.zeros(0, dtype), *rows]), _offsets([len(row) for row in rows]))

    @classmethod
    def of_strings(cls, strings: Iterable[str]) -> "Ragged":
        """Packs file names, including those that are not UTF-8."""
        encoded = [os.fsencode(name_of(string)) for string in strings]
        return cls(np.frombuffer(b"".join(encoded), np.uint8), _offsets([len(name) for name in encoded]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.flat[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    def string(self, row: int) -> str:
        """Row `row` of a table made by `of_strings`."""
        return text_of(os.fsdecode(self[row].tobytes()))

    def strings(self) -> list[str]:
        """All rows of a table made by `of_strings`."""
        data, ends = self.flat.tobytes(), self.offsets.tolist()
        return [text_of(os.fsdecode(data[start:end])) for start, end in zip(ends, ends[1:], strict=False)]

    def take(self, rows: np.ndarray) -> "Ragged":
        """The given rows, in that order."""
        lengths = np.diff(self.offsets)[rows]
        offsets = _offsets(lengths)
        flat = np.empty(offsets[-1], self.flat.dtype)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            ends = offsets[start : start + ROWS_AT_ONCE + 1]
            # The position of each kept element: its row's start plus its place within the row.
            shifts = np.repeat(self.offsets[:-1][rows[part]] - ends[:-1], lengths[part])
            flat[ends[0] : ends[-1]] = self.flat[shifts + np.arange(ends[0], ends[-1])]
        return Ragged(flat, offsets)

    @classmethod
    def concatenate(cls, parts: Sequence["Ragged"]) -> "Ragged":
        """The rows of all parts, one part after the other."""
        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        return cls(np.concatenate([part.flat for part in parts]), _offsets(lengths))


def _offsets(lengths: np.ndarray | Sequence[int]) -> np.ndarray:
    """Where rows of these lengths begin in a flat array, and where the last one ends, int64."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def pack_columns(columns: Mapping[str, np.ndarray | Ragged]) -> bytes:
    """Packs named columns into bytes for `unpack_columns`; nothing in them is ever executed."""
    arrays: dict[str, Any] = {}
    for name, column in columns.items():
        if isinstance(column, Ragged):
            arrays[f"{name}.flat"], arrays[f"{name}.offsets"] = column.flat, column.offsets
        else:
            arrays[name] = column
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def unpack_columns(data: bytes) -> dict[str, Any]:
    """Returns the columns that `pack_columns` packed. Raises ValueError for anything else."""
    columns: dict[str, Any] = {}
    arrays = read_arrays(io.BytesIO(data))
    for name, array in arrays.items():
        if name.endswith(".flat"):
            stem = name.removesuffix(".flat")
            if f"{stem}.offsets" not in arrays:
                raise ValueError(f"not a table: {stem} has no offsets")
            columns[stem] = Ragged(array, arrays[f"{stem}.offsets"])
        elif not name.endswith(".offsets"):
            columns[name] = array
    return columns


def read_arrays(file: IO[bytes], names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Reads the arrays `names` of an `.npz` file, by default all; nothing in it is ever executed.

    Raises ValueError where the file is damaged, or holds something else.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()  # numpy does not compare the checksum of what it does not read to the end
        if damaged is not None:
            raise ValueError(f"{damaged} is damaged")
        file.seek(0)
        with _header_lock, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files if names is None or name in names}
    except Exception as error:  # damaged bytes make zipfile, zlib and numpy raise errors of nearly every kind
        raise ValueError(f"not a file of arrays: {error}") from error
    if others := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise ValueError(f"not a file of arrays: {others[0]} is not an array")
    return arrays
