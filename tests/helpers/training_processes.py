"""Runs train.py as a process of its own, as several that form a group, or under torchrun."""

import os
import socket
import subprocess
import sys

from helpers.template_process import SCRIPTS, Run

TRAIN = SCRIPTS / "train.py"


def start(options) -> subprocess.Popen:
    """A run as a user starts it, whose output is read as text."""
    return _popen([sys.executable, str(TRAIN), *options])


def start_torchrun(options, processes: int, *flags: str, script=TRAIN) -> subprocess.Popen:
    """A run under torchrun with further flags of its own, whose output is read as text."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", *flags]
    return _popen([sys.executable, *launcher, str(script), *options])


def torchrun(options, processes: int, timeout: float = 240) -> tuple[int, str]:
    """(exit code, output) of `torchrun`."""
    with start_torchrun(options, processes) as process:
        try:
            output, _ = process.communicate(timeout=timeout)
        finally:
            process.kill()
    return process.returncode, output


def _popen(command: list[str]) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(options, processes: int = 1, file_limit: int | None = None, own=None, script=TRAIN) -> tuple[int, str]:
    """(exit code, output) of one process; of several, the first exit code that is not 0 and all outputs.

    `own`: further options of each process.
    """
    if processes == 1:
        return Run([script, *options], file_limit=file_limit).wait()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(processes)}
    ranks = [{**group, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    own = own or [[]] * processes
    runs = [Run([script, *options, *more], environment) for environment, more in zip(ranks, own, strict=True)]
    ends = [each.wait() for each in runs]
    return next((code for code, _ in ends if code), 0), "".join(output for _, output in ends)
