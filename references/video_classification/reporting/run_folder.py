"""The files of a run's folder: `args.json`, and `log.jsonl` with a line an epoch."""

import json
from pathlib import Path
from typing import Any

from network.checkpoint import NEWEST
from runtime.distributed import barrier, is_main
from runtime.errors import UserError
from runtime.files import replaced_file, write_json

LOG, ARGS = "log.jsonl", "args.json"


class RunLog:
    """`log.jsonl` in a run's folder: one JSON object a line, one line an epoch. Only rank 0 writes."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOG
        self._lines: list[str] = []

    def resume(self, start_epoch: int) -> None:
        """Keeps the lines of epochs before `start_epoch`; the others will be written anew."""
        if self._path.exists():
            lines = self._path.read_text().splitlines()
            self._lines = [line for line in lines if json.loads(line)["epoch"] < start_epoch]

    @property
    def entries(self) -> list[dict[str, Any]]:
        """All lines so far."""
        return [json.loads(line) for line in self._lines]

    def add(self, entry: dict[str, Any]) -> None:
        """Writes the line of one more epoch; the file is whole at any moment."""
        self._lines.append(json.dumps(entry))
        if not is_main():
            return
        try:
            with replaced_file(self._path) as file:
                file.write(("\n".join(self._lines) + "\n").encode())
        except OSError as error:
            raise RunFolderError(
                f"{self._path} cannot be written: {error.strerror}. Make room, then --resume auto"
            ) from error


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a finished run's log, without those that are something else; none where there is none."""
    try:
        entries = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    except (OSError, ValueError):
        return []
    return [entry for entry in entries if _is_entry(entry)]


def _is_entry(entry: Any) -> bool:
    """Whether it is an epoch's line: its number, and other numbers."""
    return (
        isinstance(entry, dict)
        and type(entry.get("epoch")) is int
        and all(value is None or type(value) in (int, float) for value in entry.values())
    )


class RunFolderError(UserError):
    """A folder that must not be written to; the message says what to do."""


def check_run_folder(folder: Path, resumes: bool, overwrite: bool) -> None:
    """Raises RunFolderError where it holds a run's checkpoints, and the run neither resumes nor overwrites."""
    if _checkpoints(folder) and not (resumes or overwrite):
        raise RunFolderError(
            f"{folder} holds a run's checkpoints already: continue it with --resume {folder / NEWEST}, choose another "
            "--output-dir, or begin anew with --overwrite"
        )


def _checkpoints(folder: Path) -> list[Path]:
    return [*folder.glob("model_*.pth"), *folder.glob(NEWEST)]


def open_run_folder(folder: Path, args: dict[str, Any], resumes: bool, overwrite: bool) -> None:
    """Makes a run's folder and writes its settings to `args.json`, on rank 0.

    Raises:
        RunFolderError: see `check_run_folder`; or it cannot be written.
    """
    check_run_folder(folder, resumes, overwrite)
    barrier()  # every process has looked before one of them changes anything
    if not is_main():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not resumes:
            for path in _checkpoints(folder):
                path.unlink(missing_ok=True)
        write_json(folder / ARGS, args)
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be written: {error.strerror}; choose another --output-dir") from error
