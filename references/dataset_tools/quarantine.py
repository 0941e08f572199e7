"""Moving files into quarantine, repaired ones into their place, and all back: a kill at any moment loses nothing.

The journal, `journal.jsonl` in the quarantine folder, is written ahead of each move: one line with `"state": "planned"`
that says what goes where, then one with the same `id` and the state that was reached: "done", "undone" (it is where it
was), "restoring", "restored". Each move is made under the journal's lock. What a killed run left open, the next one
settles.
"""

import os
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from references.dataset_tools import moving, records

JOURNAL = "journal.jsonl"
LOCK = "journal.lock"
TEXTS_OF_ENTRY = ("id", "state", "action", "root", "path", "kept")


class Quarantine:
    """The quarantine `folder` of the files under `root`. Paths given and taken are relative to these two."""

    def __init__(self, folder: Path, root: Path):
        self.folder, self.root = Path(os.path.realpath(folder)), Path(os.path.realpath(root))
        self.journal = self.folder / JOURNAL

    def paths_taken_from_root(self) -> set[str]:
        """Every path under root that the journal has ever told of."""
        return {entry["path"] for entry in self._entries().values() if entry["root"] == str(self.root)}

    def withdraw(self, path: str, reason: str) -> str:
        """Move `path` to the folder and return its path there. Raises OSError, with all as it was, where it cannot."""
        with self._locked():
            entry = self._plan("quarantine", path, reason)
            self._note(path, "quarantined")
            return self._carry_out(entry, lambda: moving.move(*self._ends(entry)))

    def replace(self, path: str, reason: str, remuxed: str) -> str:
        """Put the file `remuxed` in the place of `path`, in one rename; keep the original in the folder."""
        with self._locked():
            entry = self._plan("replace", path, reason, remuxed=moving.identify(remuxed))
            self._note(path, "remuxed")

            def keep_and_replace() -> None:
                original, kept = self._ends(entry)
                moving.give_second_name(original, kept)
                os.replace(remuxed, original)

            return self._carry_out(entry, keep_and_replace)

    def keep_remuxed(self, path: str, remuxed: str) -> str:
        """Move the file `remuxed`, made from `path`, to the folder, and return its path there."""
        with self._locked():
            kept = self._free_name(f"remuxed/{path}")
            moving.move(remuxed, str(self.folder / kept))
            return kept

    def settle(self) -> None:
        """Finish or undo what a killed run left open, so that the journal tells where every original is."""
        if not self.journal.exists():
            return
        with self._locked():
            for entry in self._entries().values():
                if entry["state"] in ("planned", "restoring"):
                    self._settle_entry(entry)

    def restorable(self) -> list[dict]:
        """The journal's entries for files of this root that are in the folder, the newest first."""
        return [entry for entry in self._kept() if entry["root"] == str(self.root)][::-1]

    def count_of_other_roots(self) -> Counter[str]:
        """Other root -> number of its files that are in the folder."""
        return Counter(entry["root"] for entry in self._kept() if entry["root"] != str(self.root))

    def require_restorable(self, entry: dict) -> None:
        """Raise OSError where `restore` would: the original is not in the folder, or its place is taken."""
        target, source = self._ends(entry)
        if not os.path.lexists(source):
            raise FileNotFoundError(f"{source} is not there any more")
        if os.path.lexists(target):
            is_remux = entry["action"] == "replace" and list(moving.identify(target)) == entry["remuxed"]
            if not is_remux:
                raise FileExistsError(f"another file is in its place; move {target} away first")

    def restore(self, entry: dict) -> None:
        """Put one original back where it came from. Raises OSError where it cannot, as when the place is taken."""
        with self._locked():
            self.require_restorable(entry)
            target, source = self._ends(entry)
            self._write(entry["id"], "restoring", identity=moving.identify(source))
            if os.path.lexists(target):
                moving.move_over(source, target)
            else:
                moving.move(source, target)
            self._write(entry["id"], "restored")
            self._note(entry["path"], "restored")

    def _kept(self) -> list[dict]:
        return [entry for entry in self._entries().values() if entry["state"] == "done"]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with records.locked(self.folder / LOCK, waiting=""):
            yield

    def _entries(self) -> dict[str, dict]:
        """id -> what the journal says last of it."""
        entries: dict[str, dict] = {}
        with records.explained(self.journal):
            for line in records.read_lines(self.journal):
                entries.setdefault(line["id"], {}).update(line)
            for entry in entries.values():
                _require_ours(entry)
        return entries

    def _write(self, id: str, state: str, **facts) -> None:
        line = {"id": id, "state": state, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **facts}
        records.append_lines(self.journal, [line], durable=True)

    def _plan(self, action: str, path: str, reason: str, **facts) -> dict:
        entry: dict[str, Any] = {"id": uuid.uuid4().hex, "state": "planned", "action": action}
        entry |= {"root": str(self.root), "path": path, "kept": self._free_name(path), "reason": reason, **facts}
        entry["identity"] = moving.identify(self._ends(entry)[0])
        self._write(**entry)
        return entry

    def _ends(self, entry: dict) -> tuple[str, str]:
        """The place of the original, and its place in the folder."""
        return f"{entry['root']}/{entry['path']}", f"{self.folder}/{entry['kept']}"

    def _carry_out(self, entry: dict, do) -> str:
        try:
            do()
        except OSError:
            self._settle_entry(entry)
            raise
        self._write(entry["id"], "done")
        return entry["kept"]

    def _settle_entry(self, entry: dict) -> None:
        original, kept = self._ends(entry)
        is_restoring = entry["state"] == "restoring"
        source, target = (kept, original) if is_restoring else (original, kept)
        was_moved = moving.settle(source, target, moving.Identity(*entry["identity"]))
        is_in_place = was_moved == is_restoring
        if is_restoring:
            self._write(entry["id"], "restored" if is_in_place else "done")
        else:
            self._write(entry["id"], "undone" if is_in_place else "done")
        if is_in_place and entry["root"] == str(self.root):
            self._note(entry["path"], "restored")

    def _free_name(self, path: str) -> str:
        """`path`, or with a number before its ending where that is taken; cut where that is too long for a name."""
        folder, name = os.path.split(path)
        stem, ending = os.path.splitext(name)
        longest = os.pathconf(self.folder, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
        number, kept = 0, path
        while os.path.lexists(self.folder / kept):
            number += 1
            numbered = f".{number}{ending}"
            room = longest - len(os.fsencode(numbered))
            fitting = stem if len(os.fsencode(stem)) <= room else os.fsencode(stem)[:room].decode(errors="ignore")
            kept = os.path.join(folder, fitting + numbered)
        return kept

    def _note(self, path: str, status: str) -> None:
        """Tell refactor_dataset.py, so that it does not put the file back."""
        record_root = _find_record_root(self.root, path)
        records.record_withdrawn(record_root, [os.path.relpath(self.root / path, record_root)], status)


def _require_ours(entry: dict) -> None:
    """Raises KeyError, TypeError or ValueError for a journal's entry that is not complete, or leaves its folders."""
    if not all(isinstance(entry[key], str) for key in TEXTS_OF_ENTRY):
        raise TypeError("a text is none")
    if ".." in f"{entry['path']}/{entry['kept']}".split("/"):
        raise ValueError("a path leads elsewhere")
    for key in ("identity", "remuxed") if entry["action"] == "replace" else ("identity",):
        moving.Identity(*entry[key])


def _find_record_root(root: Path, path: str) -> Path:
    """The tree that refactor_dataset.py made and that `path`, relative to root, lies in; else root itself."""
    within = (root / path).parents
    for folder in within[: within.index(root) + 3]:  # root may be the tree's split, or one class of it
        if (folder / records.FOLDER / "placed.jsonl").exists():
            return folder
    return root
