"""Errors that scripts print as one message instead of a traceback."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

REQUIREMENTS = Path(__file__).parents[1] / "requirements-extras.txt"


class UserError(RuntimeError):
    """The message says what is wrong, with which file, and what to do; scripts print it and exit with code 1."""


class CutShort(UserError):
    """What ended a run can be removed, and the run continued; scripts add the command that continues it."""


class MissingExtra(UserError):
    """An optional package is not installed; the message says how to install it."""


def first_line(error: Exception) -> str:
    """The first line of an error's message; of an empty one, the name of its class."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def listed(names: Sequence[str], most: int) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def reason_of(error: Exception) -> str:
    """Why, in words, without the name of the file: an OSError has no `strerror` where Python itself raises it."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def require(name: str, requirements: Path = REQUIREMENTS) -> ModuleType:
    """The module `name`, such as `onnxruntime`, whose package is installed from the file `requirements`.

    Raises MissingExtra where it, or something that it needs, is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra(f"{name} cannot be imported ({error}): run pip install -r {requirements}") from error
