"""The files that `refactor_dataset.py --report-dir` writes; apart from the audit, which writes nothing."""

import csv
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from references.dataset_tools.audit import Audit


class ManifestRow(NamedTuple):
    """One file under dest: its path there, and where it was found."""

    path: str
    source: str
    label: str
    split: str
    bytes: int


def write_audit(folder: Path, audit: Audit) -> None:
    with _replacing(folder / "audit.json") as file:
        json.dump(audit.as_json(), file, indent=1)


def write_manifest(folder: Path, rows: Iterable[ManifestRow]) -> None:
    with _replacing(folder / "manifest.csv") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "source", "class", "split", "bytes"])
        writer.writerows(rows)


@contextmanager
def _replacing(path: Path) -> Iterator[IO[str]]:
    """A text file that takes the name `path` once it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        yield file
    os.replace(partial, path)
