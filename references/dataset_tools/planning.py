"""What a run will do about each video, given what the sources and the destination hold."""

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

from references.dataset_tools.records import FOLDER, read_placed, record_withdrawn
from references.dataset_tools.release import Video
from references.dataset_tools.sources import SourceFile, Sources

PARTIAL_ENDING = ".partial"  # of a copy under way: hidden, and no video's ending, so nothing takes it for one


class Placement(NamedTuple):
    """One file to place: `target` is relative to the destination."""

    target: str
    source: SourceFile


class Tree(NamedTuple):
    """What the class folders of a destination hold, by path relative to it."""

    files: set[str]
    dangling: set[str]  # symbolic links to nothing
    partial: list[str]  # copies that a killed run left unfinished


class Plan(NamedTuple):
    """What a run does about each video; paths are relative to the destination."""

    placements: list[Placement]
    forced: list[str]  # of these, what check_videos.py withdrew
    present: list[tuple[str, SourceFile | None]]  # what is there already, with its source
    withdrawn: dict[str, str]  # what is left as it is -> "quarantined" or "remuxed"
    problems: list[tuple[str, str]]  # (path, reason) of what cannot be placed


def scan_tree(dest: Path, folders: set[str]) -> Tree:
    """List each folder once; no file in them is opened or examined."""
    tree = Tree(set(), set(), [])
    for folder in folders:
        try:
            directory = os.scandir(dest / folder)
        except FileNotFoundError:
            continue
        with directory:
            for item in directory:
                path = f"{folder}/{item.name}"
                if item.name.startswith(".") and item.name.endswith(PARTIAL_ENDING):
                    tree.partial.append(path)
                elif item.is_symlink() and not os.path.exists(item.path):
                    tree.dangling.add(path)
                else:
                    tree.files.add(path)
    return tree


def plan_placements(
    dest: Path, targets: dict[str, Video], sources: Sources, tree: Tree, withdrawn: dict[str, str], force: bool
) -> Plan:
    """Decide what to do about each target.

    Args:
        dest: the destination.
        targets: path relative to dest -> video.
        sources: what the source folders hold.
        tree: what the destination holds.
        withdrawn: path -> "quarantined" or "remuxed", of what check_videos.py has dealt with.
        force: place these again, where a source holds them.
    """
    plan = Plan([], [], [], {}, [])
    for path, video in targets.items():
        source, is_there = sources.files.get(video.name), path in tree.files
        if path in withdrawn and (withdrawn[path] == "remuxed" or not is_there):
            is_its_source = is_there and source is not None and os.path.samefile(dest / path, source.path)
            if force and source is not None and not is_its_source:
                plan.forced.append(path)
                plan.placements.append(Placement(path, source))
                continue
            plan.withdrawn[path] = withdrawn[path]
            if force:
                reason = f"was {withdrawn[path]}, and no source holds it; check_videos.py --restore puts it back"
                plan.problems.append((path, reason))
        elif is_there:
            plan.present.append((path, source))
        elif source is not None:
            plan.placements.append(Placement(path, source))
    return plan


def sizes_without_source(
    dest: Path, targets: dict[str, Video], sources: Sources, tree: Tree, withdrawn: dict[str, str]
) -> dict[str, int]:
    """Name -> bytes of the videos that no source holds and that are in place, or were until they were withdrawn.

    The arguments are those of `plan_placements`.
    """
    paths = {path: video.name for path, video in targets.items() if video.name not in sources.files}
    gone = {path: name for path, name in paths.items() if path in withdrawn and path not in tree.files}
    placed = read_placed(dest) if gone else {}
    sizes = {name: placed[path][0] if path in placed else 0 for path, name in gone.items()}
    return sizes | {name: os.path.getsize(dest / path) for path, name in paths.items() if path in tree.files}


def files_to_compare(dest: Path, targets: dict[str, Video], sources: Sources, tree: Tree) -> dict[str, tuple[str, int]]:
    """Name -> path and bytes of every video that is there: of its source or, where it has none, of its place.

    The arguments are those of `plan_placements`.
    """
    files = {video.name: str(dest / path) for path, video in targets.items() if path in tree.files}
    at_dest = {name: (path, os.path.getsize(path)) for name, path in files.items() if name not in sources.files}
    return at_dest | {name: (source.path, source.bytes) for name, source in sources.files.items()}


def find_clashing(dest: Path, groups: list[list[str]]) -> list[list[str]]:
    """Find the groups of paths whose file names are one name to the disk of `dest`, by trying them in a folder of it.

    The folder is removed again. Where it cannot be made, nothing can be placed either, and no group is returned.
    """
    if not groups:
        return []
    folder = next(folder for folder in (dest / FOLDER, dest, *dest.absolute().parents) if folder.is_dir())
    clashing = []
    try:
        with tempfile.TemporaryDirectory(prefix=".trial-", dir=folder) as trial:
            for number, group in enumerate(groups):
                place = Path(trial, str(number))
                place.mkdir()
                for path in group:
                    (place / os.path.basename(path)).touch()
                if len(list(place.iterdir())) < len(group):
                    clashing.append(group)
    except OSError:
        return []
    return clashing


def clear_way(dest: Path, plan: Plan, tree: Tree) -> None:
    """Remove what is in the way of the placements: unfinished copies, links to nothing, what --force replaces."""
    record_withdrawn(dest, plan.forced, "put back")
    to_nothing = [placement.target for placement in plan.placements if placement.target in tree.dangling]
    for path in [*tree.partial, *to_nothing, *(path for path in plan.forced if path in tree.files)]:
        (dest / path).unlink()
