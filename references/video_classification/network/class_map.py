"""The order of classes that the challenge's evaluator expects, from its `class_map.json`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.errors import UserError


def check_class_map(path: Path, classes: Sequence[str], source: str) -> None:
    """Compares the order of a network's outputs with a class map; a space in the map may stand for `_`.

    The map is JSON, {"0": "arm raises", ...} or {"arm raises": 0, ...}; `source` has the classes, for the message.
    Raises UserError, which names the first index with another name, or says why the file cannot be read.
    """
    expected = read_class_map(path)
    for index in range(max(len(expected), len(classes))):
        wanted, found = (names[index] if index < len(names) else None for names in (expected, classes))
        if wanted is None or found is None:
            lacking, name = (path, found) if wanted is None else (source, wanted)
            raise UserError(
                f"{path} has {len(expected)} classes and {source} {len(classes)}: {lacking} has no class {index}, "
                f"which is {name!r} in the other"
            )
        if found not in (wanted, wanted.replace(" ", "_")):
            raise UserError(
                f"{source} has another order of classes than {path}: class {index} is {found!r} there and {wanted!r} "
                "in the map. Train on folders with the map's names: classes are the folders' names, sorted"
            )


def read_class_map(path: Path) -> list[str]:
    """The names in a class map, by index. Raises UserError."""
    try:
        pairs = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=list)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as a class map: {error}") from error
    form = 'a JSON object of {"0": "arm raises", ...} or {"arm raises": 0, ...}'
    if not isinstance(pairs, list) or not pairs or not all(isinstance(pair, tuple) for pair in pairs):
        raise UserError(f"{path} is not a class map: expected {form}")
    by_index: dict[int, str] = {}
    for entry in map(_entry, pairs):
        if entry is None:
            raise UserError(f"{path} is not a class map: expected {form}, from 0 on")
        index, name = entry
        if index in by_index or name in by_index.values():
            raise UserError(f"{path} names the index {index} or the class {name!r} twice")
        by_index[index] = name
    if absent := set(range(len(by_index))) - by_index.keys():
        raise UserError(f"{path} has {len(by_index)} classes, and none of the index {min(absent)}")
    return [by_index[index] for index in range(len(by_index))]


def _entry(pair: tuple[str, Any]) -> tuple[int, str] | None:
    """(index, name), whichever is the key; None for something else."""
    key, value = pair
    if isinstance(value, str) and key.isascii() and key.isdigit():
        return int(key), value
    return (value, key) if isinstance(value, int) and not isinstance(value, bool) else None
