"""Runs scripts in copies of one process that has imported torch already: the import takes longer than most tests.

`python template_process.py` is that process. It reads requests as JSON, one a line, and answers each with a line:
{"start": [script, *arguments], "output": file, "environment": {..}, "file_limit": bytes or null} with the process id,
{"wait": process id} with its exit code, negative for a signal.
"""

import atexit
import contextlib
import importlib
import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[2]
SCRIPTS = PROJECT / "references" / "video_classification"


class Run:
    """A script that runs, one thread to compute with, so that sums are always in the same order."""

    def __init__(self, command: list, environment: dict[str, str] | None = None, file_limit: int | None = None) -> None:
        """`file_limit`: bytes that no file can grow beyond."""
        self._output = tempfile.NamedTemporaryFile("r")  # noqa: SIM115  (it lives as long as the run)
        request = {"start": [str(word) for word in command], "output": self._output.name}
        self._pid = _ask({**request, "environment": environment or {}, "file_limit": file_limit})
        self.returncode: int | None = None

    def kill(self) -> None:
        if self.returncode is None:
            os.kill(self._pid, signal.SIGKILL)
            self.wait()

    def wait(self) -> tuple[int, str]:
        """(exit code, output)."""
        if self.returncode is None:
            self.returncode = _ask({"wait": self._pid})
        return self.returncode, Path(self._output.name).read_text()


def _ask(request: dict[str, Any]) -> int:
    template = _template()
    template.stdin.write(json.dumps(request) + "\n")
    template.stdin.flush()
    return int(template.stdout.readline())


@lru_cache
def _template() -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    template = subprocess.Popen(
        [sys.executable, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(template.communicate)  # closes its input, which ends it
    return template


def _serve() -> None:
    sys.path.insert(0, str(SCRIPTS))
    for name in ("train", "training.running", "training.loop", "reporting.html_report"):
        importlib.import_module(name)  # the scripts import the rest only after parsing
    sys.path.pop(0)  # each script brings its own folder
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                os._exit(_run(request))
        print(answer, flush=True)


def _run(request: dict[str, Any]) -> int:
    """The script's exit code."""
    output = os.open(request["output"], os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(request["environment"])
    if request["file_limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"],) * 2)
    script, *_ = sys.argv = request["start"]
    sys.path.insert(0, str(Path(script).parent))
    code: Any = 0
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ending:
        code = ending.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    return code


if __name__ == "__main__":
    _serve()
