"""Runs train.py as a process of its own, or as several under torchrun."""

import os
import subprocess
import sys
from pathlib import Path

TRAIN = Path(__file__).parents[1] / "references" / "video_classification" / "train.py"


def start(options, processes=1, **kwargs):
    """Popen of a run whose output is read as text; one thread a process, so that sums are in the same order."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return subprocess.Popen(
        [*launcher, str(TRAIN), *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **kwargs,
    )


def run(options, processes=1, timeout=240, **kwargs):
    """(exit code, output) of a run."""
    process = start(options, processes, **kwargs)
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, output
