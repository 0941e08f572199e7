"""A small release on disk for the tests of the dataset tools: part folders, and a JSON of labels."""

import json
import os
from pathlib import Path

from refactor_dataset import DatasetRefactorer

ENTRIES = [(f"{n}.mp4", f"class {n % 3}", "val" if n % 4 == 0 else "train") for n in range(12)]


def make_release(folder: Path, entries: list[tuple[str, str, str]], parts: int = 2) -> tuple[list[Path], Path]:
    """Writes a file for every (name, label, split), dealt out to `parts` folders. Gives the folders and the JSON."""
    srcs = [folder / f"part-{number + 1}" for number in range(parts)]
    for src in srcs:
        src.mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(dict.fromkeys(name for name, _, _ in entries)):
        (srcs[index % parts] / name).write_bytes(f"the bytes of {name}".encode())
    return srcs, write_labels(folder / "labels.json", entries)


def write_labels(path: Path, entries: list[tuple[str, str, str]]) -> Path:
    keys = ("video_path", "label", "split")
    path.write_text(json.dumps([dict(zip(keys, (f"./{e[0]}", *e[1:]), strict=True)) for e in entries]))
    return path


def list_files(folder: Path) -> dict[str, bytes]:
    """Path -> bytes of everything under `folder` but what the tools remember there."""
    return {
        path.relative_to(folder).as_posix(): os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if not path.is_dir() and ".dataset_tools" not in path.parts
    }


def clean_tree(tmp_path: Path) -> dict[str, bytes]:
    """What a run that nothing disturbs makes of `ENTRIES`."""
    srcs, labels = make_release(tmp_path / "clean", ENTRIES)
    DatasetRefactorer(srcs, tmp_path / "clean" / "dest", labels).refactor_dataset()
    return list_files(tmp_path / "clean" / "dest")
