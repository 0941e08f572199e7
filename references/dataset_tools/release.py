"""The release as it was downloaded: the JSON that lists its videos, and the folders that hold them."""

import json
import os
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple


class ReleaseError(ValueError):
    """The release cannot be used as it is; the message says which entry or file, and what to do."""


class Video(NamedTuple):
    """One line of the release: a video's file name, with the label and split that it is listed under."""

    name: str
    label: str
    split: str

    @property
    def folder(self) -> str:
        """The class folder that it belongs in, relative to the destination."""
        return f"{self.split}/{class_folder(self.label)}"


class SourceFile(NamedTuple):
    """A file in one of the sources, as the directory told of it."""

    path: str
    bytes: int
    mtime_ns: int
    device: int
    inode: int
    through_link: bool = False  # it, or a folder on the way to it, is a symbolic link in the source


class Sources(NamedTuple):
    """What the source folders hold."""

    files: dict[str, SourceFile]  # the wanted names that were found; the first source wins
    repeats: dict[str, list[SourceFile]]  # further files of those names
    unlisted: list[str]  # paths of files that the release does not list, with an ending of those that it lists
    not_files: list[str]  # paths of wanted names that cannot be used: links to nothing or to themselves, pipes


@cache
def class_folder(label: str) -> str:
    return label.replace(" ", "_")


def read_release(labels: Path, split_is_optional: bool = False) -> list[Video]:
    """The videos that the JSON lists, in its order; an entry written twice counts once.

    With `split_is_optional` an entry without a split belongs to "train".
    Raises ReleaseError where the file is not a list of entries `{"video_path", "label", "split"}`, or where a name in
    it would lead out of the destination.
    """
    try:
        entries = json.loads(labels.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ReleaseError(f"{labels}: is not JSON: {error}") from None
    if not isinstance(entries, list):
        raise ReleaseError(f"{labels}: is not a list of entries, but a {type(entries).__name__}")
    default_split = "train" if split_is_optional else None
    videos: dict[Video, None] = {}
    for index, entry in enumerate(entries):
        try:
            videos[_read_entry(entry, default_split)] = None
        except ReleaseError as error:
            text = json.dumps(entry)
            raise ReleaseError(f"{labels}: entry {index} ({text[:200]}): {error}") from None
    return list(videos)


def _read_entry(entry: object, default_split: str | None) -> Video:
    if not isinstance(entry, dict):
        raise ReleaseError('is not an object like {"video_path": ..., "label": ..., "split": ...}')
    values = entry.get("video_path"), entry.get("label"), entry.get("split", default_split)
    for key, value in zip(("video_path", "label", "split"), values, strict=True):
        if not isinstance(value, str):
            if key not in entry:
                raise ReleaseError(f'has no "{key}"')
            raise ReleaseError(f'its "{key}" is {json.dumps(value)[:50]}, not a text')
    video = Video(values[0].rpartition("/")[2], values[1], values[2])
    problems = _name_problem(video.name), _folder_problem(video.label), _folder_problem(video.split)
    for key, text, problem in zip(("video_path", "label", "split"), video, problems, strict=True):
        if problem:
            raise ReleaseError(f'its {key} "{text}" {problem}, so it cannot name a file or folder')
    return video


def _name_problem(text: str) -> str | None:
    """Why `text` cannot be the name of one file or folder; None where it can."""
    if text.isascii() and text.isprintable() and text[:1].isalnum() and "/" not in text and "\\" not in text:
        return None if len(text) <= 255 else "is longer than 255 bytes"  # the usual case, quickly
    if not text.strip():
        return "is empty"
    if text.startswith("."):
        return "begins with a dot"
    if "/" in text or "\\" in text:
        return "holds a path separator"
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        return "holds a control character"
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        return "is not valid Unicode"
    return "is longer than 255 bytes" if len(encoded) > 255 else None


_folder_problem = lru_cache(maxsize=None)(_name_problem)  # labels are few, entries many


def find_sources(srcs: list[Path], wanted: set[str], skip: Path, listed: set[str] | None = None) -> Sources:
    """Looks for the `wanted` file names in the sources and their folders, but not in `skip` or in hidden folders.

    `listed` are all names of the release, where `wanted` are only some. Symbolic links are followed, after all else;
    but not to `skip`, nor to a folder that holds a source.
    """
    listed = wanted if listed is None else listed
    found = Sources({}, {}, [], [])
    endings = {os.path.splitext(name)[1].lower() for name in listed}
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
                    if item.is_dir(follow_symlinks=False):
                        if not item.name.startswith("."):
                            inner.append(item.path)
                    elif item.name in wanted:
                        _take_wanted(item, through_link, skip_path, found)
                    elif linked := _linked_folder(item, skip_path, roots):
                        starts.append((linked, True))
                    elif item.name not in listed and os.path.splitext(item.name)[1].lower() in endings:
                        found.unlisted.append(item.path)
            folders += sorted(inner, reverse=True)
    found.unlisted.sort()
    return found


def _take_wanted(item: os.DirEntry, through_link: bool, skip: str, found: Sources) -> None:
    # Hard links and moves would act on a symbolic link itself; what is wanted is the file that it leads to.
    path = os.path.realpath(item.path) if item.is_symlink() else item.path
    try:
        is_file, stat = item.is_file(), item.stat()
    except OSError:  # it leads to nothing, to itself, or through a folder that may not be entered
        is_file = False
    if not is_file:
        found.not_files.append(item.path)
        return
    if item.is_symlink() and _lies_in(path, skip):
        return
    is_through_link = through_link or item.is_symlink()
    file = SourceFile(path, stat.st_size, stat.st_mtime_ns, stat.st_dev, stat.st_ino, is_through_link)
    first = found.files.setdefault(item.name, file)
    if path != first.path and all(path != other.path for other in found.repeats.get(item.name, ())):
        found.repeats.setdefault(item.name, []).append(file)


def _linked_folder(item: os.DirEntry, skip: str, roots: list[str]) -> str | None:
    """The folder that the symbolic link `item` leads to; None where it is no such link, or not to be followed."""
    if not item.is_symlink() or item.name.startswith(".") or not os.path.isdir(item.path):
        return None
    folder = os.path.realpath(item.path)
    return None if _lies_in(folder, skip) or any(_lies_in(root, folder) for root in roots) else folder


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")
