"""Check the files of a tree and deal with the bad ones, by means of workers, quarantine and report."""

import csv
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from references.dataset_tools.moving import REMUX_ENDING, temporary_name
from references.dataset_tools.probing import ProbeOptions, Verdict
from references.dataset_tools.progress import printable_name
from references.dataset_tools.quarantine import Quarantine
from references.dataset_tools.records import replacing
from references.dataset_tools.remuxing import Inspection, inspect, unlink_if_there
from references.dataset_tools.state import CheckedFiles
from references.dataset_tools.workers import Task, WorkerFailure, WorkerPool


class Row(NamedTuple):
    """One line of the report."""

    path: str  # relative to root
    status: str  # ok, remuxed, quarantined, bad, error, would_remux or would_quarantine
    reason: str = ""
    frames: int = 0
    seconds: float = 0.0  # the duration of the video


REPORT_HEADER = ",".join(Row._fields)


class TreeChecker:
    """Check files under `root`, and move the bad ones to `quarantine`.

    Args:
        root: the tree.
        quarantine: None only reports bad files.
        options: what counts as readable.
        remux: tries a stream copy of a bad file.
        replace: puts a good remux in place of the original.
        dry_run: changes nothing.
        jobs: the number of worker processes.
        timeout: seconds for which the check of a file may make no progress.
        state: a file that remembers readable files.
    """

    def __init__(
        self,
        root: Path,
        quarantine: Quarantine | None = None,
        *,
        options: ProbeOptions,
        remux: bool = False,
        replace: bool = False,
        dry_run: bool = False,
        jobs: int = 1,
        timeout: float = 60,
        state: Path | None = None,
    ):
        self.root, self.quarantine, self.options = root, quarantine, options
        self.remux, self.replace, self.dry_run = remux, replace, dry_run
        self.jobs, self.timeout, self.state = jobs, timeout, state
        self.bytes_read = 0

    def check(self, paths: list[str]) -> Generator[Row, None, None]:
        """Yield a row for each of the paths (relative to root), in order of completion."""
        stats: dict[str, os.stat_result | None] = {}
        with CheckedFiles(self.state, self.options) as checked, tempfile.TemporaryDirectory() as folder:
            for path in paths:
                stat = _stat(self.root / path)
                verdict = checked.recall(self._absolute(path), stat) if stat else None
                if verdict:
                    yield Row(path, "ok", verdict.reason, verdict.frames, verdict.seconds)
                else:
                    stats[path] = stat
            if not stats:
                return
            remuxes: dict[str, str] = {}  # of the files being worked on, which may have none

            def tasks() -> Iterator[Task]:
                for path in stats:
                    if self.remux and not self._is_behind_link(path):
                        remuxes[path] = self._remux_to(path, folder)
                    yield Task(path, inspect, (self._absolute(path), self.options, remuxes.get(path)))

            try:
                with WorkerPool(min(self.jobs, len(stats)), self.timeout) as pool:
                    for path, result in pool.run(tasks()):
                        stat = stats[path]
                        self.bytes_read += stat.st_size if stat else 0
                        row = self._deal_with(path, _as_inspection(result), remuxes.get(path))
                        if path in remuxes:
                            unlink_if_there(remuxes.pop(path))
                        if row.status == "ok" and stat:
                            checked.remember(self._absolute(path), stat, result.verdict)
                        yield row
            finally:
                for remuxed in remuxes.values():
                    unlink_if_there(remuxed)

    def sweep(self, leftovers: list[str], paths: list[str] | None = None) -> None:
        """Remove the remuxes at `leftovers`, unfinished by a killed run: all, or those made from `paths`."""
        ours = None if paths is None else {temporary_name(path, REMUX_ENDING) for path in paths}
        for leftover in leftovers:
            if (ours is None or leftover in ours) and not self._is_behind_link(leftover):
                unlink_if_there(self._absolute(leftover))

    def _absolute(self, path: str) -> str:
        return os.path.join(os.path.abspath(self.root), path)

    def _remux_to(self, path: str, scratch: str) -> str:
        remuxed = temporary_name(path, REMUX_ENDING)
        return os.path.join(scratch, os.path.basename(remuxed)) if self.dry_run else self._absolute(remuxed)

    def _is_behind_link(self, path: str) -> bool:
        """Whether `path` leaves root through a linked folder: files outside of root stay untouched."""
        folder = os.path.realpath(os.path.dirname(self._absolute(path)))
        return not Path(folder).is_relative_to(os.path.realpath(self.root))

    def _deal_with(self, path: str, inspection: Inspection, remuxed: str | None) -> Row:
        verdict = inspection.verdict
        row = Row(path, verdict.status, verdict.reason, verdict.frames, verdict.seconds)
        if verdict.status != "bad" or self.quarantine is None:
            return row
        if self._is_behind_link(path):
            return row._replace(status="error", reason=f"{verdict.reason}; not moved: it lies behind a linked folder")
        repaired = inspection.remuxed
        if self.dry_run:
            return row._replace(status="would_remux" if repaired and self.replace else "would_quarantine")
        try:
            if repaired and remuxed and self.replace:
                self.quarantine.replace(path, verdict.reason, remuxed)
                return Row(path, "remuxed", verdict.reason, repaired.frames, repaired.seconds)
            self.quarantine.withdraw(path, verdict.reason)
            if repaired and remuxed:
                kept = self.quarantine.keep_remuxed(path, remuxed)
                row = row._replace(reason=f"{verdict.reason}; a remux repairs it: it is in quarantine at {kept}")
            return row._replace(status="quarantined")
        except OSError as error:
            return row._replace(status="error", reason=f"{verdict.reason}; it could not be moved: {error}")


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # the probe will say what is wrong with it
        return None


def _as_inspection(result: Inspection | WorkerFailure) -> Inspection:
    if isinstance(result, WorkerFailure):
        return Inspection(Verdict("bad" if result.is_inputs_fault else "error", result.reason))
    return result


def write_report(path: Path, rows: list[Row]) -> None:
    """Write the rows as CSV, sorted by path. The file appears once it is complete; a link is followed."""
    if _is_stream(path):
        sys.stdout.flush()
        with open(path, "a", encoding="utf-8", errors="surrogateescape", newline="") as file:  # what was printed stays
            _write_rows(file, rows)
        return
    with replacing(os.path.realpath(path)) as file:
        _write_rows(file, rows)


def _is_stream(path: Path) -> bool:
    """Whether `path` is a pipe, a device, or this process's standard output, which must not be replaced."""
    return path.exists() and (not path.is_file() or os.path.samestat(path.stat(), os.fstat(1)))


def _write_rows(file: IO[str], rows: list[Row]) -> None:
    writer = csv.writer(file)
    writer.writerow(Row._fields)
    writer.writerows(row._replace(seconds=round(row.seconds, 3)) for row in sorted(rows))


def summarise(rows: list[Row]) -> str:
    """The number of files by status and, except for "ok", by the first words of the reason."""
    counts = Counter(row.status for row in rows)
    lines = []
    for status, count in sorted(counts.items(), key=lambda item: (item[0] != "ok", item[0])):
        lines.append(f"{count:8d} {status}")
        reasons = Counter(
            printable_name(row.reason.split(":")[0]) for row in rows if row.status == status and row.reason
        )
        lines += [f"{number:12d} {reason}" for reason, number in reasons.most_common()]
    return "\n".join(lines)
