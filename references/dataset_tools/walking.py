"""Which files of a tree to check; a room of its own, being what decides that nothing is overlooked."""

import os
from pathlib import Path

from references.dataset_tools.records import FOLDER

VIDEO_ENDINGS = ["mp4", "m4v", "mov", "3gp", "avi", "mkv", "webm", "ts", "mts", "m2ts"]
VIDEO_ENDINGS += ["mpg", "mpeg", "flv", "wmv", "asf", "ogv"]


def find_videos(root: Path, endings: list[str], skip: Path | None) -> tuple[list[str], list[tuple[str, str]]]:
    """The paths under root's train/ and val/ (all of root, if it has neither) with one of the `endings`, in any case.

    Also gives `(path, reason)` of folders that could not be listed. Paths are relative to root, sorted. `skip` is a
    folder not to go into. What has such an ending counts, be it a link, a pipe, or a folder that holds no video.
    """
    wanted = tuple("." + ending.lower().lstrip(".") for ending in endings)
    skipped = os.path.realpath(skip) if skip else None
    starts = [name for name in ("train", "val") if (root / name).is_dir()]
    found, unreadable, visited = set(), [], set()
    folders = [str(root / name) for name in starts] or [str(root)]
    while folders:
        folder = folders.pop()
        real = os.path.realpath(folder)
        if real in visited or real == skipped or os.path.basename(folder) == FOLDER:
            continue
        visited.add(real)
        try:
            with os.scandir(folder) as directory:
                items = list(directory)
        except OSError as error:
            unreadable.append((os.path.relpath(folder, root), f"the folder cannot be listed: {error.strerror}"))
            continue
        for item in items:
            if item.is_dir():
                folders.append(item.path)
            if item.name.lower().endswith(wanted):
                found.add(item.path[len(str(root)) + 1 :])
    holders = {parent for path in found for parent in _parents(path)}
    return sorted(found - holders), sorted(unreadable)


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def take_shard(paths: list[str], taken: set[str], index: int, count: int) -> list[str]:
    """Every `count`-th of `paths`, from `index` on.

    They are counted together with the paths that were `taken` to quarantine, so that the shards that start while others
    are already moving files still cover every file once.
    """
    everything = sorted({*paths, *taken})
    return sorted(set(everything[index % count :: count]) & set(paths))
