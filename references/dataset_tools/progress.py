"""Progress of long work, shown the same way by both dataset scripts: a bar on a terminal, plain lines elsewhere.

And text that any terminal can show.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def progress(total: int, description: str, unit: str) -> Iterator[Callable[[int], None]]:
    """Gives a function to call with the number of items just finished. Writes to stderr."""
    if sys.stderr.isatty():
        with tqdm(total=total, desc=description, unit=unit, dynamic_ncols=True) as bar:
            yield bar.update
        return

    done, start = 0, time.monotonic()
    next_line = start + SECONDS_BETWEEN_LINES

    def advance(count: int) -> None:
        nonlocal done, next_line
        done += count
        now = time.monotonic()
        if now >= next_line:
            next_line = now + SECONDS_BETWEEN_LINES
            rate = done / (now - start)
            minutes_left = (total - done) / rate / 60
            line = f"{description}: {done}/{total}, {rate:.1f} {unit}/s, {minutes_left:.0f} min left"
            print(line, file=sys.stderr, flush=True)

    yield advance


def printable(text: str) -> str:
    """`text` with what the standard output cannot encode, such as a name that is no valid Unicode, as escapes."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
