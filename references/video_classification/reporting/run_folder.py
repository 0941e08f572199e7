"""The files of a run's folder: which are its own, `args.json`, and `log.jsonl` with a line an epoch."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from evaluation.predictions import PREDICTIONS
from network.checkpoint import BEST, NEWEST
from reporting.html_report import REPORT
from reporting.result_files import CONFUSION, METRICS, PER_CLASS
from reporting.tensorboard_log import event_files
from runtime.distributed import barrier, is_main
from runtime.errors import CutShort, UserError, reason_of
from runtime.files import printable, replaced_file, take_lock, write_json

LOG, ARGS = "log.jsonl", "args.json"
NON_FINITE = "non_finite_loss_rank{}.json"
NAMED = 3  # files named in a message
RESULTS = (REPORT, METRICS, PREDICTIONS, PER_CLASS, CONFUSION)
# All that a training writes; other names are the user's.
_CHECKPOINTS = [re.escape(NEWEST), re.escape(BEST), r"model_\d+\.pth"]
_OTHERS = [*map(re.escape, (*RESULTS, LOG, ARGS)), re.escape(NON_FINITE).replace(r"\{\}", r"\d+")]
_IS_CHECKPOINT = re.compile("|".join(_CHECKPOINTS)).fullmatch
_IS_OWN = re.compile(
    rf"{'|'.join([*_CHECKPOINTS, *_OTHERS])}|\.({'|'.join([*_CHECKPOINTS, *_OTHERS])})\.\w+\.tmp"
).fullmatch


class RunLog:
    """`log.jsonl` in a run's folder: one JSON object a line, one line an epoch. Only rank 0 writes."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOG
        self._lines: list[str] = []

    def resume(self, start_epoch: int) -> None:
        """Keeps the lines of epochs before `start_epoch`; the others will be written anew."""
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines()
            self._lines = [line for line in lines if json.loads(line)["epoch"] < start_epoch]

    @property
    def entries(self) -> list[dict[str, Any]]:
        """All lines so far."""
        return [json.loads(line) for line in self._lines]

    def add(self, entry: dict[str, Any]) -> None:
        """Writes the line of one more epoch, whole or not at all; removes the results, which are of those before."""
        self._lines.append(json.dumps(entry))
        if not is_main():
            return
        try:
            for name in RESULTS:
                (self._path.parent / name).unlink(missing_ok=True)
            with replaced_file(self._path) as file:
                file.write(("\n".join(self._lines) + "\n").encode())
        except OSError as error:
            raise CutShort(f"{self._path} cannot be written: {reason_of(error)}. Make room") from error


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a finished run's log, without those that are something else; none where there is none."""
    try:
        entries = [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []
    # An epoch's line has its number, and other numbers.
    entries = [entry for entry in entries if isinstance(entry, dict) and type(entry.get("epoch")) is int]
    return [entry for entry in entries if all(value is None or type(value) in (int, float) for value in entry.values())]


def is_own(path: Path, folder: Path) -> bool:
    """Whether a run in `folder` writes to this path, and may remove what is there."""
    parent, name = os.path.split(os.path.realpath(path))
    return parent == os.path.realpath(folder) and _IS_OWN(name) is not None


def check_no_run(flag: str, path: Path | None) -> None:
    """Raises UserError where the output `path` of another script would replace a file of a run or an evaluation."""
    if path is None or not is_own(path, folder := Path(os.path.realpath(path)).parent):
        return
    if any((folder / name).exists() for name in (ARGS, LOG, REPORT)):
        raise UserError(f"{flag} {printable(path)} is a name of the run in that folder: choose another")


def continues(checkpoint: Path | None, folder: Path) -> bool:
    """Whether a run in `folder` that resumes `checkpoint` goes on with the run there, rather than branching off."""
    if checkpoint is None or not _IS_CHECKPOINT(checkpoint.name):
        return False
    parents = (os.path.realpath(checkpoint.parent), os.path.dirname(os.path.realpath(checkpoint)))
    return os.path.realpath(folder) in parents


@contextmanager
def sole_run(folder: Path) -> Iterator[None]:
    """Inside, no other run works in `folder`. Raises UserError where one does; the lock is rank 0's."""
    if not is_main():
        yield
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]  # the deepest first
    with ExitStack() as stack:
        for path in reversed(made):
            stack.callback(_remove_if_empty, path)
        with suppress(OSError):  # the check of what is written to says it, with the flag
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            if not take_lock(descriptor):
                raise UserError(f"another run is at work in {folder}: wait for its end, or choose another --output-dir")
        yield


def check_run_folder(folder: Path, continues: bool, overwrite: bool) -> None:
    """Raises UserError where it holds a run that this one neither continues nor overwrites."""
    kept = [name for name in _own_files(folder) if _IS_CHECKPOINT(name) or name in RESULTS]
    if kept and not (continues or overwrite):
        raise UserError(
            f"{folder} holds another run already ({', '.join(sorted(kept)[:NAMED])}): continue that one with --resume "
            "auto, choose another --output-dir, or begin anew with --overwrite, which removes it"
        )


def open_run_folder(folder: Path, args: dict[str, Any], continues: bool, overwrite: bool) -> None:
    """Makes a run's folder and writes its settings to `args.json`, on rank 0; removes all of a run that it overwrites.

    Raises UserError as `check_run_folder`, and where it cannot be written.
    """
    check_run_folder(folder, continues, overwrite)
    barrier()  # every process has looked before one of them changes anything
    if not is_main():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not continues:
            for path in [*map(folder.joinpath, _own_files(folder)), *event_files(folder)]:
                path.unlink(missing_ok=True)
        write_json(folder / ARGS, args)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {reason_of(error)}; choose another --output-dir") from error


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def _own_files(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if _IS_OWN(name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
