"""How a dataset script ends: wrong usage, errors that its user can mend, Ctrl-C, SIGTERM, a reader that went away."""

import argparse
import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from references.dataset_tools.progress import printable, printable_name

NO_PERMISSION = "there is no permission to read it; change its permissions, or name another"
INTERRUPTED, TERMINATED = 130, 143  # as a shell reports a death by SIGINT and by SIGTERM


class Terminated(KeyboardInterrupt):
    """SIGTERM, the request of a job system or a service to end: it stops the work just as Ctrl-C does."""


class ArgumentParser(argparse.ArgumentParser):
    """A parser that takes no part of a flag's name, and whose errors are one line that is safe to print."""

    def __init__(self, description: str | None):
        super().__init__(
            description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )

    def error(self, message: str) -> NoReturn:
        super().error(printable_name(message))


def folder_problem(option: str, path: Path) -> str | None:
    """Why the folder that `option` names cannot be read; None where it can."""
    if problem := _closed_problem(option, path):
        return problem
    if not path.is_dir():
        return f"{option} {path}: there is no such folder"
    return None if os.access(path, os.R_OK | os.X_OK) else f"{option} {path}: {NO_PERMISSION}"


def _closed_problem(option: str, path: Path) -> str | None:
    """That a folder above what `option` names may not be entered; None where all may."""
    try:
        path.stat()
    except PermissionError:
        return f"{option} {path}: there is no permission to enter its folder; name another place"
    except OSError:  # it is not there
        pass
    return None


def output_problem(option: str, path: Path | None, *, is_folder: bool) -> str | None:
    """Why the file or folder that `option` names cannot be written, and what to do; None where it can."""
    if path is None:
        return None
    if problem := _closed_problem(option, path):
        return problem
    if is_folder and path.exists() and not path.is_dir():
        return f"{option} {path}: is a file; name a folder"
    if not is_folder and path.is_dir():
        return f"{option} {path}: is a folder; name a file in it"
    target = Path(os.path.realpath(path))
    is_stream = target.exists() and not is_folder and not target.is_file()
    above = target if is_folder else target.parent
    while not os.path.lexists(above):
        above = above.parent
    if not above.is_dir() and not is_stream:
        return f"{option} {path}: {above} is no folder; name another place"
    if not os.access(target if is_stream else above, os.W_OK):
        return f"{option} {path}: there is no permission to write in {above}; name another place"
    return None


def input_problem(option: str, path: Path | None) -> str | None:
    """Why the file that `option` names cannot be read; None where it can."""
    if path is None:
        return None
    if problem := _closed_problem(option, path):
        return problem
    if path.is_dir():
        return f"{option} {path}: is a folder; name a file"
    if not path.exists():
        return f"{option} {path}: there is no such file"
    return None if os.access(path, os.R_OK) else f"{option} {path}: {NO_PERMISSION}"


def replacing_problem(option: str, path: Path | None, beginning: str) -> str | None:
    """Why the result that `option` names may not replace what is there: a file that does not start with `beginning`,
    as an earlier result would. None where there is no such file, or an empty one.
    """
    if path is None or not os.path.isfile(path):
        return None
    if problem := input_problem(option, path):
        return problem
    with path.open("rb") as file:
        found = file.read(len(beginning))
    if found in (b"", beginning.encode()):
        return None
    return f"{option} {path}: is a file that this script did not write, so it is left as it is; name another place"


def exit_code_of(work: Callable[[], int], expected: tuple[type[Exception], ...], stopped: str) -> int:
    """Run `work` and return the script's exit code: that of `work`, 1 for an error that is `expected`, 130 for Ctrl-C,
    143 for SIGTERM. Errors and `stopped`, which says how to go on, are printed in one message each.
    """
    try:
        with _sigterm_raised():
            code = work()
            sys.stdout.flush()
            return code
    except BrokenPipeError:  # what read the output has ended, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the interpreter's exit
        return 1
    except expected as error:
        reason = str(error)
        if isinstance(error, OSError) and error.filename is not None:
            reason = f"{error.filename}: {error.strerror}"  # without Python's "[Errno 13]"
        if isinstance(error, PermissionError):
            reason += "; change its permissions, or name another place"
        elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            reason += "; make room, and run again"
        print(printable(f"error: {reason}"), file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(printable(stopped), file=sys.stderr)
        return TERMINATED if isinstance(error, Terminated) else INTERRUPTED


@contextlib.contextmanager
def _sigterm_raised() -> Iterator[None]:
    """Within it SIGTERM raises Terminated, unless it is ignored or this is not the main thread."""

    def terminate(signum: int, frame: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) == signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
