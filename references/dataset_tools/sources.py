"""The folders that a release was downloaded to: where each listed video is found in them."""

import os
from pathlib import Path
from typing import NamedTuple

from references.dataset_tools.names import composed


class SourceFile(NamedTuple):
    """A file in one of the sources."""

    path: str  # of the file itself, where it was found through a symbolic link
    bytes: int
    mtime_ns: int
    device: int  # the number of its file system
    inode: int
    through_link: bool = False  # it, or a folder on the way to it, is a symbolic link in the source


class Sources(NamedTuple):
    """What the source folders hold."""

    files: dict[str, SourceFile]  # the wanted names that were found; the first source wins
    repeats: dict[str, list[SourceFile]]  # further files of those names
    unlisted: list[str]  # paths of files that the release does not list, with an ending of those that it lists
    not_files: list[str]  # paths of wanted names that cannot be used: links to nothing or to themselves, pipes


def find_sources(srcs: list[Path], wanted: set[str], skip: Path, listed: set[str] | None = None) -> Sources:
    """Look for files by their names, in the sources and all their folders but hidden ones.

    A name is found in whichever Unicode form the disk holds it. Symbolic links are followed, after all else; but not to
    `skip`, nor to a folder that holds a source.

    Args:
        srcs: the source folders; of a name that is in several, the first counts.
        wanted: the file names.
        skip: a folder that is not searched.
        listed: all names of the release, where `wanted` are only some.
    """
    listed = wanted if listed is None else listed
    found = Sources({}, {}, [], [])
    endings = {os.path.splitext(name)[1].lower() for name in listed}
    listed_as = {composed(name): name for name in listed if not name.isascii()}
    skip_path, roots = os.path.realpath(skip), [os.path.realpath(src) for src in srcs]
    starts, visited = [(root, False) for root in roots], {skip_path}
    for start, through_link in starts:  # which grows, by the folders that links lead to
        folders = [start]
        while folders:
            folder = folders.pop()
            if folder in visited:
                continue
            visited.add(folder)
            inner: list[str] = []
            with os.scandir(folder) as directory:
                for item in directory:
                    name = item.name
                    if not name.isascii() and name not in listed:
                        name = listed_as.get(composed(name), name)
                    if item.is_dir(follow_symlinks=False):
                        if not name.startswith("."):
                            inner.append(item.path)
                    elif name in wanted:
                        _take_wanted(item, name, through_link, skip_path, found)
                    elif linked := _linked_folder(item, skip_path, roots):
                        starts.append((linked, True))
                    elif name not in listed and os.path.splitext(name)[1].lower() in endings:
                        found.unlisted.append(item.path)
            folders += sorted(inner, reverse=True)
    found.unlisted.sort()
    return found


def _take_wanted(item: os.DirEntry, name: str, through_link: bool, skip: str, found: Sources) -> None:
    # Hard links and moves would act on a symbolic link itself; what is wanted is the file that it leads to.
    is_link = item.is_symlink()
    path = os.path.realpath(item.path) if is_link else item.path
    try:
        is_file, stat = item.is_file(), item.stat()
    except OSError:  # it leads to nothing, to itself, or through a folder that may not be entered
        is_file = False
    if not is_file:
        found.not_files.append(item.path)
        return
    if is_link and _lies_in(path, skip):
        return
    file = SourceFile(path, stat.st_size, stat.st_mtime_ns, stat.st_dev, stat.st_ino, through_link or is_link)
    first = found.files.setdefault(name, file)
    if path != first.path and all(path != other.path for other in found.repeats.get(name, ())):
        found.repeats.setdefault(name, []).append(file)


def _linked_folder(item: os.DirEntry, skip: str, roots: list[str]) -> str | None:
    """The folder that the symbolic link `item` leads to; None where it is no such link, or not to be followed."""
    if not item.is_symlink() or item.name.startswith(".") or not os.path.isdir(item.path):
        return None
    folder = os.path.realpath(item.path)
    return None if _lies_in(folder, skip) or any(_lies_in(root, folder) for root in roots) else folder


def _lies_in(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(folder)
