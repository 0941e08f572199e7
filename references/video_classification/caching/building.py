"""What building a cache takes, whatever it holds: one process prepares the folder for those that see it."""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from caching.shards import CacheError, Shard, ShardError, build_lock, remove_leftovers
from runtime.distributed import FolderSharers, gather_objects, print_main
from runtime.errors import reason_of


class Cache(Protocol):
    """A `ClipCache` or a `FeatureCache`."""

    folder: Path
    damage: list[ShardError]
    unused: list[Shard]

    def reload(self) -> None:
        """Reads the shards again."""


def on_first(sharers: FolderSharers, action: Callable[[], None]) -> None:
    """Runs `action` on the first process that sees each folder while the others wait; all raise its CacheError."""
    error = None
    if sharers.is_first:
        try:
            action()
        except CacheError as caught:
            error = caught
    raise_first(gather_objects(error))


def raise_first(errors: Sequence[Exception | None]) -> None:
    """Raises the first error among those of all processes, if there is one."""
    if error := next((error for error in errors if error is not None), None):
        raise error


@contextlib.contextmanager
def building(cache: Cache, name: str, lost: str) -> Iterator[None]:
    """Holds the lock of the cache's folder, with what is of no use cleared away.

    Args:
        cache: reloaded under the lock, since another run may have built it meanwhile.
        name: of the cache, for messages.
        lost: what becomes of the entries of a damaged shard, for messages.

    Raises:
        CacheError: the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        with cache_errors(name, cache.folder):
            stack.enter_context(build_lock(cache.folder))
            cache.reload()
            for damage in cache.damage:
                print_main(f"{name.capitalize()}: {damage}: {lost}")
            for path in [*(damage.path for damage in cache.damage), *(shard.path for shard in cache.unused)]:
                path.unlink(missing_ok=True)
            remove_leftovers(cache.folder)
        yield


@contextlib.contextmanager
def cache_errors(name: str, folder: Path) -> Iterator[None]:
    """Raises CacheError for what the system refuses inside; `name` is the cache's, for the message."""
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"the {name} is not complete, and {folder} cannot be written ({reason_of(error)}): "
            "make room or get the right to write there, or name another folder with --cache-dir"
        ) from error


def check_space(folder: Path, needed_bytes: int, what: str, advice: str) -> None:
    """Raises CacheError if the disk has less space than is needed.

    Args:
        folder: exists on that disk.
        needed_bytes: an estimate.
        what: subject and verb of the message.
        advice: ends the message.
    """
    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        needs = f"{what} about {gigabytes(needed_bytes)} in {folder.parent}, where {gigabytes(free)} are free"
        raise CacheError(f"{needs}: free some, or name another disk with --cache-dir{advice}")


def gigabytes(count: float) -> str:
    """A number of bytes, in words."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.0f} MB"
