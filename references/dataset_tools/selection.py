"""Which of a release's videos to use: by class, by number, and the split."""

import random
from collections import Counter, defaultdict
from pathlib import Path

from references.dataset_tools.names import composed, to_name, to_text
from references.dataset_tools.progress import printable_name
from references.dataset_tools.release import ReleaseError, Video, class_folder

SPLITS = ("train", "val")  # the folders that check_videos.py and training look at


def read_classes(path: Path) -> list[str]:
    """The labels in a file of one label a line; blank lines are skipped. Raises ReleaseError where it is not UTF-8."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ReleaseError(f"{printable_name(str(path))}: is not text in UTF-8 ({error}); save it as UTF-8") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def rename_splits(videos: list[Video], names: dict[str, str]) -> list[Video]:
    """Rename the splits by `names`, old -> new; a video that this lists twice under one label counts once.

    Raises ReleaseError for a key of `names` that is no split of the release, and where a split remains that is neither
    "train" nor "val": nothing looks at its videos.
    """
    counts = Counter(video.split for video in videos)
    there = ", ".join(f'"{split}" (videos: {count})' for split, count in sorted(counts.items()))
    if unknown := sorted(names.keys() - counts.keys()):
        raise ReleaseError(f'no video has the split "{unknown[0]}" that --rename-split names; the labels hold {there}')
    for split in counts:
        if names.get(split, split) not in SPLITS:
            raise ReleaseError(
                f"the labels hold the splits {there}, but only train and val are checked and trained on; "
                f"say what the others are, such as --rename-split '{split}=val', or leave them out of the labels"
            )
    if not names:
        return videos
    renamed = (video._replace(split=names.get(video.split, video.split)) for video in videos)
    return list(dict.fromkeys(renamed))


def keep_classes(videos: list[Video], classes: list[str]) -> list[Video]:
    """The videos under one of the `classes`, written with spaces or `_`.

    Raises ReleaseError for an unknown class, and where there are no classes.
    """
    if not classes:
        raise ReleaseError("the classes file names no class; write one label a line, or leave the option out")
    wanted = {_class_key(to_name(name)): name for name in classes}
    labels = {label: _class_key(label) for label in {video.label for video in videos}}
    if unknown := sorted(name for key, name in wanted.items() if key not in labels.values()):
        raise ReleaseError(f"no video is listed under the class(es) {', '.join(unknown)}; check the classes file")
    return [video for video in videos if labels[video.label] in wanted]


def _class_key(label: str) -> str:
    return composed(class_folder(label))


def split_off_val(videos: list[Video], fraction: float, seed: int) -> list[Video]:
    """Move `fraction` of each class to the split "val", at least one video of every class that has two.

    A video listed under several labels goes to one split. Raises ReleaseError where there is a val split already.
    """
    if any(video.split != "train" for video in videos):
        raise ReleaseError('the labels already have the split "val"; leave out --val-fraction')
    split_of: dict[str, str] = {}
    for label, names in sorted(_names_by(videos, "label").items(), key=lambda item: to_text(item[0])):
        count = min(max(round(fraction * len(names)), 1), len(names) - 1)
        chosen = _draw(names, count, f"val {seed} {to_text(label)}")
        for name in names:
            split_of.setdefault(name, "val" if name in chosen else "train")
    return [video._replace(split=split_of[video.name]) for video in videos]


def keep_at_most(videos: list[Video], per_class: int, seed: int) -> list[Video]:
    """At most `per_class` videos of each class in each split, drawn by `seed`, in the order given."""
    kept = set()
    for (split, label), names in _names_by(videos, "split", "label").items():
        count = min(per_class, len(names))
        for name in _draw(names, count, f"subset {seed} {split} {to_text(label)}"):
            kept.add(Video(name, label, split))
    return [video for video in videos if video in kept]


def _draw(names: list[str], count: int, seed: str) -> set[str]:
    """`count` of the names, the same ones whatever their order and the locale."""
    return set(random.Random(seed).sample(sorted(names, key=to_text), count))


def _names_by(videos: list[Video], *fields: str) -> dict:
    names = defaultdict(list)
    for video in videos:
        key = tuple(getattr(video, field) for field in fields)
        names[key if len(key) > 1 else key[0]].append(video.name)
    return names
