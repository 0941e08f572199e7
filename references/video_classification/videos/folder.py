"""Lists the videos of `root/<class>/`."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from runtime.columns import Ragged
from runtime.errors import UserError
from runtime.files import name_of, text_of

# As the dataset tools take for videos, or a file that they placed and checked would be ignored in training.
VIDEO_ENDINGS: tuple[str, ...] = (".mp4", ".m4v", ".mov", ".3gp", ".avi", ".mkv", ".webm", ".ts", ".mts", ".m2ts")
VIDEO_ENDINGS += (".mpg", ".mpeg", ".flv", ".wmv", ".asf", ".ogv")

# That systems and programs leave beside what people made.
SYSTEM_FOLDERS = {"@eadir", "#recycle", "$recycle.bin", "__macosx", "__pycache__", "lost+found"}
SYSTEM_FOLDERS |= {"system volume information"}


class DatasetError(UserError):
    """A folder that training cannot use; the message says what is wrong."""


class VideoFolder:
    """The videos of `root/<class>/`, in the order of classes and names.

    Args:
        root: a folder with one folder per class.
        classes: names in the order of the labels; by default the folders' names, sorted. A class may have no folder.

    Attributes:
        names: each video's path relative to `root`.
        labels: int64 (N,).
        sizes, mtimes_ns: of each file, int64 (N,).

    Raises:
        DatasetError: there is no such folder, no video in it, or a class folder that `classes` does not name.
    """

    def __init__(self, root: Path, classes: Sequence[str] | None = None) -> None:
        self.root = Path(root)
        folders = class_folders(self.root)
        self.classes = list(folders if classes is None else classes)
        label_of = {name: label for label, name in enumerate(self.classes)}
        if unknown := [name for name in folders if name not in label_of]:
            raise DatasetError(
                f"{self.root} holds a class that training does not know: {', '.join(unknown)} "
                f"(known: {', '.join(self.classes)})"
            )
        names, labels, sizes, mtimes = [], [], [], []
        for folder in folders:
            for entry in sorted(os.scandir(self.root / name_of(folder)), key=lambda entry: text_of(entry.name)):
                if _is_video(entry):
                    status = _status(entry)
                    names.append(f"{folder}/{text_of(entry.name)}")
                    labels.append(label_of[folder])
                    sizes.append(status.st_size)
                    mtimes.append(status.st_mtime_ns)
        if not names:
            raise DatasetError(f"{self.root} holds no videos: expected {self.root}/<class>/<video>.mp4")
        self.names = Ragged.of_strings(names)
        columns = (np.array(column, np.int64) for column in (labels, sizes, mtimes))
        self.labels, self.sizes, self.mtimes_ns = columns

    def __len__(self) -> int:
        return len(self.names)

    def path(self, video: int) -> str:
        """The path of the file."""
        return os.path.join(self.root, name_of(self.names.string(video)))


class JoinedFolders(VideoFolder):
    """The videos of several folders with the same classes, one folder after the other; names begin with the folder's.

    Args:
        folders: side by side in one folder, as train/ and val/ are.
    """

    def __init__(self, folders: Sequence[VideoFolder]) -> None:
        self.root, self.classes = folders[0].root.parent, folders[0].classes
        self.names = Ragged.of_strings(f"{part.root.name}/{name}" for part in folders for name in part.names.strings())
        self.labels = np.concatenate([part.labels for part in folders])
        self.sizes = np.concatenate([part.sizes for part in folders])
        self.mtimes_ns = np.concatenate([part.mtimes_ns for part in folders])


def class_folders(root: Path) -> list[str]:
    """The sorted names of the folders in `root` that hold a video. Raises DatasetError where there is no such folder.

    Neither hidden folders nor a system's are among them.
    """
    return [name for name, reason in _folders(root) if reason is None]


def ignored_folders(root: Path) -> list[tuple[str, str]]:
    """The folders in `root` that are no class, and why. Raises as `class_folders`."""
    return [(name, reason) for name, reason in _folders(root) if reason is not None]


def _folders(root: Path) -> list[tuple[str, str | None]]:
    """Every folder in `root`, sorted, with the reason why it is no class."""
    if not root.is_dir():
        raise DatasetError(f"{root} is not a folder: expected train/<class>/ and val/<class>/ under --data-path")
    folders = {text_of(entry.name): entry for entry in os.scandir(root) if entry.is_dir()}
    return [(name, _reason_against(folders[name])) for name in sorted(folders)]


def _reason_against(folder: os.DirEntry[str]) -> str | None:
    if folder.name.startswith("."):
        return "hidden"
    if folder.name.lower() in SYSTEM_FOLDERS:
        return "a system's"
    with os.scandir(folder.path) as entries:
        return None if any(map(_is_video, entries)) else "without a video"


def _is_video(entry: os.DirEntry) -> bool:
    return entry.name.lower().endswith(VIDEO_ENDINGS) and not entry.name.startswith(".")


def _status(entry: os.DirEntry) -> os.stat_result:
    try:
        return entry.stat()
    except OSError:  # a dangling link: the scan will report it
        return entry.stat(follow_symlinks=False)
