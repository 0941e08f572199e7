"""Tells how far long work has come: a tqdm bar on a terminal, a plain line every so often elsewhere. A room of its own
because modules of every level wait for long work.
"""

import sys
import time

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """A context manager around long work.

    Args:
        description: what is being done.
        total: how many there are to do.
        unit: what is counted, in the singular.
        quiet: print nothing (another process prints).
    """

    def __init__(self, description: str, total: int, unit: str, quiet: bool = False) -> None:
        self._description, self._total, self._unit, self._quiet = description, total, unit, quiet
        self._is_terminal = sys.stderr.isatty() and not quiet
        self._done = 0
        self._start = self._last_line = time.monotonic()
        self._bar = tqdm(desc=description, total=total, unit=unit, dynamic_ncols=True) if self._is_terminal else None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, count: int = 1, note: str = "") -> None:
        """`count` more are done; `note` stands at the end of the line."""
        self._done += count
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif not self._quiet and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            print(self._line(note), flush=True)

    def _line(self, note: str) -> str:
        rate = self._done / (time.monotonic() - self._start)
        remaining = (self._total - self._done) / rate
        line = f"{self._description}: {self._done}/{self._total} {self._unit}s, {rate:.1f}/s, eta {remaining:.0f} s"
        return f"{line}, {note}" if note else line
