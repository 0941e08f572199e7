"""Comparing files by their bytes."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

from references.dataset_tools.progress import progress

CHUNK_BYTES = 1 << 20
Item = TypeVar("Item")
Result = TypeVar("Result")


class Duplicates(NamedTuple):
    """What `find_duplicates` found."""

    groups: list[list[str]]  # names whose files hold the same bytes, each group and all of them sorted
    unread: dict[str, str]  # name -> why its file could not be compared with others of its size


def same_bytes(first: str, second: str) -> bool:
    """Whether two files hold the same bytes; those of one inode are not read."""
    if os.path.samefile(first, second):
        return True
    if os.path.getsize(first) != os.path.getsize(second):
        return False
    with open(first, "rb") as one, open(second, "rb") as two:
        while chunk := one.read(CHUNK_BYTES):
            if chunk != two.read(CHUNK_BYTES):
                return False
        return not two.read(1)


def is_second_copy(path: str, other: str) -> bool:
    """Whether the file `other` holds the same bytes as `path`, and would still hold them were `path` removed."""
    if os.path.realpath(path) == os.path.realpath(other):
        return False
    if os.path.samefile(path, other):
        return os.stat(path).st_nlink > 1  # else these are two ways to one name
    return same_bytes(path, other)


def find_differing(pairs: list[tuple[str, str]], jobs: int) -> list[tuple[str, str]]:
    """Those of the (file, source) pairs whose bytes differ or cannot be read, as (file, reason). Shows progress."""

    def problem(pair: tuple[str, str]) -> str | None:
        try:
            return None if same_bytes(*pair) else f"its bytes differ from those of {pair[1]}"
        except OSError as error:
            return f"cannot be compared: {error}"

    reasons = _map_files(problem, pairs, jobs, "verifying")
    return [(path, reason) for (path, _), reason in zip(pairs, reasons, strict=True) if reason]


def find_duplicates(files: Iterable[tuple[str, str, int]], jobs: int) -> Duplicates:
    """Find the files that hold the same bytes, among (name, path, bytes). Shows progress.

    Only files of the same size are read. Empty files are passed over: they are damaged, not duplicates.
    """
    of_size: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for name, path, size in files:
        if size:
            of_size[size].append((name, path))
    candidates = [(size, *file) for size, group in of_size.items() if len(group) > 1 for file in group]
    digests = _map_files(lambda candidate: _digest(candidate[2]), candidates, jobs, "comparing")
    alike: dict[tuple[int, bytes], list[str]] = defaultdict(list)
    unread = {}
    for (size, name, _), digest in zip(candidates, digests, strict=True):
        if isinstance(digest, OSError):
            unread[name] = digest.strerror or str(digest)
        else:
            alike[size, digest].append(name)
    return Duplicates(sorted(sorted(names) for names in alike.values() if len(names) > 1), dict(sorted(unread.items())))


def _digest(path: str) -> bytes | OSError:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        return error
    return digest.digest()


def _map_files(function: Callable[[Item], Result], items: list[Item], jobs: int, description: str) -> Iterator[Result]:
    """The results in order, by `jobs` threads; whatever stops it, files that were not begun are not read any more."""
    with progress(len(items), description, "file") as advance, ThreadPoolExecutor(jobs) as pool:
        try:
            for result in pool.map(function, items):
                advance(1)
                yield result
        finally:
            pool.shutdown(cancel_futures=True)
