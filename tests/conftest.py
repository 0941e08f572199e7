import os
import signal
from pathlib import Path

import pytest

from helpers.small_datasets import SMALL, make_dataset

# Read once, when torch is loaded: threads that spin while they wait make the tests ten times slower on busy cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell without job control starts what it puts in the background with SIGINT ignored, which the scripts that are
# tested would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    """Three classes; not to be changed."""
    return make_dataset(tmp_path_factory.mktemp("dataset"), ["left_raise", "pushups", "squats"])


@pytest.fixture
def card():
    """The GPU to compute on."""
    from network.precision import resolve_device  # loads torch

    try:
        device = resolve_device("cuda")
    except ValueError as error:
        pytest.skip(str(error))
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when a process first multiplies on a GPU
    return device


@pytest.fixture
def small_options() -> list[str]:
    """Flags of train.py for small clips on the CPU."""
    return list(SMALL)
