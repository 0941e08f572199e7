"""Optional packages in tests."""

import importlib
import os
from types import ModuleType

import pytest


def require_extra(name: str) -> ModuleType:
    """The optional module; without it the test is skipped, or fails if EXTRAS_INSTALLED is set, as CI sets it."""
    if "EXTRAS_INSTALLED" in os.environ:
        return importlib.import_module(name)
    return pytest.importorskip(name)
