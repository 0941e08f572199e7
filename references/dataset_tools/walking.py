"""Find the files of a tree that are to be checked."""

import errno
import os
from pathlib import Path
from typing import NamedTuple

from references.dataset_tools.moving import REMUX_ENDING, is_temporary_name
from references.dataset_tools.records import FOLDER

VIDEO_ENDINGS = ["mp4", "m4v", "mov", "3gp", "avi", "mkv", "webm", "ts", "mts", "m2ts"]
VIDEO_ENDINGS += ["mpg", "mpeg", "flv", "wmv", "asf", "ogv"]


def walked_folders(root: Path) -> list[Path]:
    """The folders that are searched: root's train/ and val/, or root if it has neither."""
    return [root / name for name in ("train", "val") if (root / name).is_dir()] or [root]


class Found(NamedTuple):
    """The result of walking a tree. Paths are relative to its root, and sorted."""

    videos: list[str]
    unreadable: list[tuple[str, str]]  # (path, reason) of folders that could not be listed
    leftovers: list[str]  # remuxes that a killed run left unfinished


def find_videos(root: Path, endings: list[str], skip: Path | None) -> Found:
    """The paths under root's train/ and val/ (all of root if it has neither) with one of the `endings`, in any case.

    Anything with such an ending counts, be it a link, a pipe, or a folder without videos. `skip` is a folder that is
    not searched.
    """
    wanted = tuple("." + ending.lower().lstrip(".") for ending in endings)
    skipped = os.path.realpath(skip) if skip else None
    found, unreadable, leftovers, visited = set(), [], [], set()
    folders = ["" if folder == root else folder.name for folder in walked_folders(root)]  # relative to root
    while folders:
        folder = folders.pop()
        real = os.path.realpath(root / folder)
        if real in visited or real == skipped or os.path.basename(folder) == FOLDER:
            continue
        visited.add(real)
        try:
            with os.scandir(root / folder) as directory:
                items = list(directory)
        except OSError as error:
            unreadable.append((folder or ".", f"the folder cannot be listed: {error.strerror}"))
            continue
        for item in items:
            path = os.path.join(folder, item.name)
            is_wanted = item.name.lower().endswith(wanted)
            try:
                if item.is_dir():
                    folders.append(path)
            except OSError as error:  # of a link; one that leads to itself hides no folder
                if not is_wanted and error.errno != errno.ELOOP:
                    unreadable.append((path, f"cannot be followed: {error.strerror}"))
            if is_wanted:
                found.add(path)
            elif is_temporary_name(item.name, REMUX_ENDING):
                leftovers.append(path)
    holders = {parent for path in found for parent in _parents(path)}
    return Found(sorted(found - holders), sorted(unreadable), sorted(leftovers))


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: count + 1]) for count in range(len(parts))]


def take_shard(paths: list[str], taken: set[str], index: int, count: int) -> list[str]:
    """Every `count`-th of `paths`, from `index` on.

    The paths that were `taken` to quarantine are counted with them, so that shards that start while others already move
    files still cover every file once.
    """
    everything = sorted({*paths, *taken})
    return sorted(set(everything[index % count :: count]) & set(paths))
