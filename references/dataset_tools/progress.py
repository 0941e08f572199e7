"""What the dataset scripts show: progress, as a bar on a terminal and as lines elsewhere, and text safe to print."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def progress(total: int, description: str, unit: str) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of items just finished. Writes to stderr."""
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
    """`text`, of any number of lines, as the standard output can show it.

    Control and other invisible characters, which could change what a terminal shows, are replaced by escapes such as
    `\\x1b`, and so is what the output cannot encode, such as a name that is not valid Unicode.
    """
    encoding = sys.stdout.encoding or "utf-8"
    shown = text if _is_plain(text) else "".join(map(_shown, text))
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def printable_name(name: str) -> str:
    """As `printable`, for a name within a line: its line breaks are replaced too."""
    return printable(name).replace("\n", "\\n")


def _is_plain(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def _shown(character: str) -> str:
    if character.isprintable() or character == "\n":
        return character
    return character.encode("unicode_escape").decode()
