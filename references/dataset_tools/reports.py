"""What a run reports: what was done, which videos it concerns, and the files of `refactor_dataset.py --report-dir`."""

import csv
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from references.dataset_tools.audit import Audit
from references.dataset_tools.names import to_text
from references.dataset_tools.progress import printable_name
from references.dataset_tools.records import read_placed, replacing
from references.dataset_tools.release import Video
from references.dataset_tools.sources import Sources

AUDIT, MANIFEST = "audit.json", "manifest.csv"
MANIFEST_COLUMNS = ["path", "source", "class", "split", "bytes"]
BEGINNINGS = {AUDIT: '{\n "videos": ', MANIFEST: ",".join(MANIFEST_COLUMNS)}


@dataclass
class Outcome:
    """What one run did; paths are relative to the destination."""

    ways: dict[str, int] = field(default_factory=dict)  # "hard link", "copy", ... -> number of files placed so
    present: int = 0
    withdrawn: dict[str, str] = field(default_factory=dict)  # not put back: path -> "quarantined" or "remuxed"
    absent: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)  # (path, reason): not placed, differing, not pruned
    taken_away: int = 0  # sources of files that were there already, with mode "move"
    pruned: int = 0
    dry_run: bool = False

    def __str__(self) -> str:
        ways = ", ".join(f"{count} by {way}" for way, count in sorted(self.ways.items()))
        lines = [f"placed {sum(self.ways.values())}{f' ({ways})' if ways else ''}, {self.present} were there already"]
        if self.taken_away:
            verb = "would take" if self.dry_run else "took"
            lines.append(f"{verb} away the sources of {self.taken_away} that were there already (--mode move)")
        for status in ("quarantined", "remuxed"):
            count = list(self.withdrawn.values()).count(status)
            if count:
                remedy = "--force puts back what a source holds, check_videos.py --restore all"
                lines.append(f"{count} left as they are: check_videos.py {status} them ({remedy})")
        if self.pruned:
            verb = "would prune" if self.dry_run else "pruned"
            lines.append(f"{verb} {self.pruned} that the labels no longer ask for")
        return "\n".join(lines)


class ManifestRow(NamedTuple):
    """One file under dest: its path there, and where it was found."""

    path: str
    source: str
    label: str
    split: str
    bytes: int


def list_problems(heading: str, items: list[str], limit: int = 100) -> None:
    """Print the items, which hold names, under a heading with their number; nothing where there are none."""
    if not items:
        return
    print(f"{len(items)} {heading}:", file=sys.stderr)
    for item in items[:limit]:
        print(f"  {printable_name(item)}", file=sys.stderr)
    if len(items) > limit:
        print(f"  and {len(items) - limit} more (--report-dir lists all that are absent)", file=sys.stderr)


def files_in(folder: Path) -> list[Path]:
    """The files that the reports are written to."""
    return [folder / name for name in (AUDIT, MANIFEST)]


def prepare(folder: Path) -> None:
    """Make the folder. Raises OSError where reports cannot be written there, before any work is done for them."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in files_in(folder):
        if path.is_dir():
            raise IsADirectoryError(f"{printable_name(str(path))} is a folder, so the report cannot be written")
    with tempfile.TemporaryFile(dir=folder):
        pass


def write_audit(folder: Path, audit: Audit) -> None:
    with replacing(folder / AUDIT) as file:
        text = to_text(json.dumps(audit.as_json(), indent=1, ensure_ascii=False))
        json.dump(json.loads(text), file, indent=1)


def write_manifest(folder: Path, rows: Iterable[ManifestRow]) -> None:
    with replacing(folder / MANIFEST) as file:
        writer = csv.writer(file)
        writer.writerow(MANIFEST_COLUMNS)
        for row in rows:
            writer.writerow([to_text(value) if isinstance(value, str) else value for value in row])


def list_placed(dest: Path, targets: dict[str, Video], sources: Sources, outcome: Outcome) -> Iterator[ManifestRow]:
    """What is now under dest; after a dry run, what would be."""
    placed = read_placed(dest)
    for path, video in sorted(targets.items()):
        source = sources.files.get(video.name)
        try:
            size = os.path.getsize(dest / path)
        except OSError:
            if not outcome.dry_run or source is None or path in outcome.withdrawn:
                continue
            size = source.bytes
        _, _, origin = placed.get(path, (0, 0, source.path if source else ""))
        yield ManifestRow(path, origin, video.label, video.split, size)
