"""Optional packages that tests need."""

import importlib
import os
from types import ModuleType

import pytest


def require_extra(name: str) -> ModuleType:
    """The module `name`. Without its package the test is skipped; where EXTRAS_INSTALLED is set it fails."""
    if os.environ.get("EXTRAS_INSTALLED"):
        return importlib.import_module(name)
    return pytest.importorskip(name)
