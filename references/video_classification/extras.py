"""Optional packages: a missing one gives one clear error. A room of its own, since scripts of every kind need some."""

import importlib
from pathlib import Path
from types import ModuleType

from errors import UserError

REQUIREMENTS = Path(__file__).with_name("requirements-extras.txt")


class MissingExtra(UserError):
    """An optional package that is not installed; the message says how to install it."""


def require(name: str) -> ModuleType:
    """The module `name`, such as `onnxruntime` or `matplotlib.pyplot`.

    Raises:
        MissingExtra: it, or something that it needs, is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtra(f"{name} cannot be imported ({error}): run pip install -r {REQUIREMENTS}") from error
