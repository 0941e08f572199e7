"""The files found readable by earlier runs, so that a rerun reads only what is new or changed (`--state`)."""

import os
from pathlib import Path

from references.dataset_tools.probing import ProbeOptions, Verdict
from references.dataset_tools.records import append_lines, explained, read_lines

LINES_PER_WRITE = 50
STATE_BEGINNING = '["'


class CheckedFiles:
    """A file of one line for every file found readable: its path, size, time, the options, and the verdict.

    With no path it remembers nothing. To be closed, or used as a context manager.
    """

    def __init__(self, path: Path | None, options: ProbeOptions):
        self.path, self.options = path, list(options)
        self._verdicts: dict[str, tuple[list, Verdict]] = {}
        self._unwritten: list[list] = []
        if path is None:
            return
        with explained(path):
            if path.exists() and path.read_bytes()[:2] not in (b"", STATE_BEGINNING.encode()):
                raise ValueError("not a file of this kind")  # before anything is added to it
            for file, size, mtime_ns, options_then, verdict in read_lines(path):
                if options_then == self.options:
                    self._verdicts[file] = ([size, mtime_ns], Verdict(*verdict))
        append_lines(path, [])  # fails now rather than at the end

    def __enter__(self) -> "CheckedFiles":
        return self

    def __exit__(self, *exception) -> None:
        self._write()

    def recall(self, path: str, stat: os.stat_result) -> Verdict | None:
        """The verdict of an earlier run on the file as it is now, if there is one."""
        facts, verdict = self._verdicts.get(path, (None, None))
        return verdict if facts == [stat.st_size, stat.st_mtime_ns] else None

    def remember(self, path: str, stat: os.stat_result, verdict: Verdict) -> None:
        """Note a readable file. `stat` must be of before it was read, so that a change since is seen."""
        if self.path is None:
            return
        self._unwritten.append([path, stat.st_size, stat.st_mtime_ns, self.options, verdict])
        if len(self._unwritten) >= LINES_PER_WRITE:
            self._write()

    def _write(self) -> None:
        if self.path is not None and self._unwritten:
            append_lines(self.path, self._unwritten)
            self._unwritten = []
