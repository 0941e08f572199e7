"""The files that `refactor_dataset.py --report-dir` writes; apart from the audit, which writes nothing."""

import csv
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from references.dataset_tools.audit import Audit
from references.dataset_tools.release import Sources, Video


def write_reports(folder: Path, audit: Audit, targets: dict[str, Video], sources: Sources) -> None:
    """Writes `audit.json`, and `manifest.csv` with a line for every target (path under dest) that has a source."""
    folder.mkdir(parents=True, exist_ok=True)
    with _replacing(folder / "audit.json") as file:
        json.dump(audit.as_json(), file, indent=1)
    with _replacing(folder / "manifest.csv") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "source", "class", "split", "bytes"])
        for path, video in sorted(targets.items()):
            if source := sources.files.get(video.name):
                writer.writerow([path, source.path, video.label, video.split, source.bytes])


@contextmanager
def _replacing(path: Path) -> Iterator[IO[str]]:
    """A text file that takes the name `path` once it is complete."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        yield file
    os.replace(partial, path)
