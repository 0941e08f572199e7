"""Argument types for argparse."""

import argparse
import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from runtime.files import file_identity, printable

Number = TypeVar("Number", int, float)
Parser = argparse.ArgumentParser | argparse._ArgumentGroup


def add_value(
    parser: Parser,
    flag: str,
    kind: Callable[[str], Any],
    metavar: str | tuple[str, ...],
    text: str,
    default: Any = None,
    **further: Any,
) -> None:
    """Adds a flag that takes a value of this kind, to `parser.add_argument`; its help ends in the default, if any."""
    shown = f"{default:g}" if isinstance(default, float) else _joined(default)
    text = text if default is None else f"{text} ({shown})"
    parser.add_argument(flag, type=kind, metavar=metavar, default=default, help=text, **further)


def add_choice(parser: Parser, flag: str, choices: Iterable[str], default: Any, text: str, **further: Any) -> None:
    """Adds a flag that takes one of the choices; its help ends in the default."""
    parser.add_argument(flag, choices=choices, default=default, help=f"{text} ({_joined(default)})", **further)


def add_switch(parser: Parser, flag: str, text: str) -> None:
    """Adds a flag that takes no value."""
    parser.add_argument(flag, action="store_true", help=text)


def _joined(default: Any) -> str:
    return " ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)


def _number(
    kind: Callable[[str], Number], is_valid: Callable[[Number], bool], expected: str
) -> Callable[[str], Number]:
    """A type for argparse: a number within limits."""

    def read(text: str) -> Number:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not is_valid(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
        return value

    return read


positive_int = _number(int, lambda value: 0 < value < 1 << 31, "a whole number above 0, and below 2^31")
non_negative_int = _number(int, lambda value: 0 <= value < 1 << 31, "a whole number from 0, and below 2^31")
seed = _number(int, lambda value: 0 <= value < 1 << 63, "a whole number from 0 below 2^63")  # that torch takes
positive_float = _number(float, lambda value: 0 < value < 2.0**127, "a number above 0, and within float32")
non_negative_float = _number(float, lambda value: 0 <= value < 2.0**127, "a number from 0, and within float32")
share = _number(float, lambda value: 0 <= value <= 1, "a number from 0 to 1")

NO_PERMISSION = "there is no permission to read it: change its permissions, or name another"
Paths = Iterable[tuple[str, Path | None]]  # with the flags that name them; None for a flag that was not given


def check_inputs(parser: argparse.ArgumentParser, files: Paths) -> None:
    """Ends the script with exit code 1, before any work, where a file to read is not there: the usage is not wrong."""
    for flag, path in files:
        if path is None:
            continue
        mode = _mode(parser, flag, path)
        if stat.S_ISDIR(mode):
            _end(parser, f"{flag} {printable(path)} is a folder: name a file")
        if not mode:
            _end(parser, f"{flag} {printable(path)}: there is no such file")
        if not os.access(path, os.R_OK):
            _end(parser, f"{flag} {printable(path)}: {NO_PERMISSION}")


def check_folders(parser: argparse.ArgumentParser, folders: Paths, *, must_exist: bool = False) -> None:
    """Ends the script as `check_inputs` does where a folder is a file or may not be read, or with `must_exist` is not
    there.
    """
    for flag, path in folders:
        if path is None:
            continue
        mode = _mode(parser, flag, path)
        if mode and not stat.S_ISDIR(mode):
            _end(parser, f"{flag} {printable(path)} is a file: name a folder")
        if must_exist and not mode:
            _end(parser, f"{flag} {printable(path)}: there is no such folder")
        if mode and not os.access(path, os.R_OK | os.X_OK):
            _end(parser, f"{flag} {printable(path)}: {NO_PERMISSION}")


def _mode(parser: argparse.ArgumentParser, flag: str, path: Path) -> int:
    """The mode of a file, 0 where there is none. Ends the script where a folder above it may not be entered."""
    try:
        return path.stat().st_mode
    except PermissionError:
        _end(parser, f"{flag} {printable(path)}: there is no permission to enter its folder: name another place")
    except OSError:
        return 0


def _end(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    parser.exit(1, f"{parser.prog}: error: {message}\n")


def check_outputs(parser: argparse.ArgumentParser, outputs: Paths, inputs: Iterable[str | Path | None]) -> None:
    """Refuses to write a file that is one of those to read, under whatever name, or that is written twice.

    Files to read may be data folders, whose train/<class>/<video> and val/<class>/<video> are read. None stands for a
    flag that was not given.
    """
    paths = [Path(path) for path in inputs if path is not None]
    read = set(map(file_identity, paths))
    written = set()
    for flag, path in outputs:
        if path is None:
            continue
        mode = _mode(parser, flag, path)
        if stat.S_ISDIR(mode):
            parser.error(f"{flag} {printable(path)} is a folder: name a file in it")
        if mode and (not stat.S_ISREG(mode) or _is_standard_output(path)):  # a rename would take its place
            parser.error(f"{flag} {printable(path)} is a device, a pipe or the standard output: name a file")
        identity = file_identity(path)
        if identity in read or mode and identity in map(file_identity, _videos(paths)):
            parser.error(f"{flag} {printable(path)} is one of the files to read, and would replace it: choose another")
        if identity in written:
            parser.error(f"{flag} {printable(path)} would be written twice: choose another")
        written.add(identity)


def _is_standard_output(path: Path) -> bool:
    with contextlib.suppress(OSError):  # it is closed
        return os.path.samestat(path.stat(), os.fstat(1))
    return False


def _videos(folders: Iterable[Path]) -> Iterator[Path]:
    """The files in the classes of data folders."""
    return (video for folder in folders for split in ("train", "val") for video in folder.glob(f"{split}/*/*"))
