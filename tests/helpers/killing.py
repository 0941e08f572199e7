"""Ends a process for the tests: after its n-th change to the file system, or by SIGKILL at a random moment."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CHANGES = ("rename", "replace", "link", "symlink", "unlink", "mkdir", "rmdir", "write")
ROOT = Path(__file__).parents[2]


class Killed(BaseException):
    """Stands for SIGKILL: nothing that tidies up on an Exception sees it."""


def kill_at_change(number: int, action) -> bool:
    """Runs `action`, ended as by a kill just before its `number`-th change. Gives whether it was ended."""
    count = 0

    def guarded(change):
        def call(*args, **kwargs):
            nonlocal count
            if count >= number:
                raise Killed
            count += 1
            return change(*args, **kwargs)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGES:
            patch.setattr(os, name, guarded(getattr(os, name)))
        try:
            action()
        except Killed:
            return True
    return False


def sigkill_at_random(script: str, arguments: list[str], longest_seconds: float, rng: random.Random) -> None:
    """Starts the script, and kills it with SIGKILL after a random time."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / script), *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(rng.uniform(0, longest_seconds))
    process.send_signal(signal.SIGKILL)
    process.wait()


def run_script(script: str, arguments: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / script), *arguments], capture_output=True, text=True, check=False, timeout=300
    )
