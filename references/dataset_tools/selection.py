"""Which of a release's videos to use: by class, by number, and the split; a room of its own, being pure functions."""

import random
from collections import defaultdict
from pathlib import Path

from references.dataset_tools.release import ReleaseError, Video, class_folder


def read_classes(path: Path) -> list[str]:
    """The labels in a file of one label a line; blank lines are skipped."""
    return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


def keep_classes(videos: list[Video], classes: list[str]) -> list[Video]:
    """The videos under one of the `classes`, written with spaces or `_`.

    Raises ReleaseError for an unknown class, and where there are no classes.
    """
    if not classes:
        raise ReleaseError("the classes file names no class; write one label a line, or leave the option out")
    wanted = {class_folder(name) for name in classes}
    unknown = sorted(wanted - {class_folder(label) for label in {video.label for video in videos}})
    if unknown:
        raise ReleaseError(f"no video is listed under the class(es) {', '.join(unknown)}; check the classes file")
    return [video for video in videos if class_folder(video.label) in wanted]


def split_off_val(videos: list[Video], fraction: float, seed: int) -> list[Video]:
    """Moves `fraction` of each class to the split "val", at least one video of every class that has two.

    A video listed under several labels goes to one split. Raises ReleaseError where there is a split already.
    """
    others = sorted({video.split for video in videos} - {"train"})
    if others:
        raise ReleaseError(f"the labels already have the split(s) {', '.join(others)}; leave out --val-fraction")
    split_of: dict[str, str] = {}
    for label, names in sorted(_names_by(videos, "label").items()):
        count = min(max(round(fraction * len(names)), 1), len(names) - 1)
        chosen = set(random.Random(f"val {seed} {label}").sample(sorted(names), count))
        for name in names:
            split_of.setdefault(name, "val" if name in chosen else "train")
    return [video._replace(split=split_of[video.name]) for video in videos]


def keep_at_most(videos: list[Video], per_class: int, seed: int) -> list[Video]:
    """At most `per_class` videos of each class in each split, drawn by `seed`, in the order given."""
    kept = set()
    for (split, label), names in _names_by(videos, "split", "label").items():
        count = min(per_class, len(names))
        for name in random.Random(f"subset {seed} {split} {label}").sample(sorted(names), count):
            kept.add(Video(name, label, split))
    return [video for video in videos if video in kept]


def _names_by(videos: list[Video], *fields: str) -> dict:
    names = defaultdict(list)
    for video in videos:
        key = tuple(getattr(video, field) for field in fields)
        names[key if len(key) > 1 else key[0]].append(video.name)
    return names
