"""Signals that ask a run to end: it saves at the next step and tells how to go on. A room of its own, as no other
module has to do with the operating system's signals.
"""

import os
import shlex
import signal
from types import FrameType

# SIGTERM: a machine is taken away, or torchrun ends its processes. SIGUSR1: Slurm's warning before the time limit.
STOP_SIGNALS = ("SIGTERM", "SIGUSR1")


class Stopped(BaseException):
    """The run ends, as `signal_number` asked for; before that it has been saved, or there was nothing to save.

    No Exception, as KeyboardInterrupt is none: code that goes on after whatever error must not go on after this.
    """

    def __init__(self, signal_number: int, is_saved: bool = True) -> None:
        saved = ", the run is saved" if is_saved else ""
        super().__init__(f"stopped by {signal.Signals(signal_number).name}{saved}")
        self.exit_code = 128 + signal_number


class StopRequest:
    """Notes the signals while the block runs.

    Args:
        at_once: raise Stopped where the run is, since it has nothing to save; else the signals interrupt nothing.

    Attributes:
        signal_number: of the first that came, 0 before.
    """

    def __init__(self, at_once: bool = False) -> None:
        self.signal_number, self._at_once = 0, at_once
        self._numbers = [getattr(signal, name) for name in STOP_SIGNALS if hasattr(signal, name)]

    def __enter__(self) -> "StopRequest":
        self._before = [signal.signal(number, self._note) for number in self._numbers]
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in zip(self._numbers, self._before, strict=True):
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal_number = self.signal_number or number
        if self._at_once:
            raise Stopped(number, is_saved=False)


def resume_command(argv: list[str]) -> str:
    """What the user types to go on with the run that `argv`, the script and its arguments, began."""
    words = [word for word in argv if word != "--overwrite" and not word.startswith(("--start-epoch=", "--resume="))]
    for flag in ("--start-epoch", "--resume"):
        if flag in words:
            place = words.index(flag)
            del words[place : place + 2]
    return shlex.join([*_launcher(), *words, "--resume", "auto"])


def _launcher() -> list[str]:
    """What starts the processes; torchrun tells each how many there are, and how many on its machine."""
    count, here = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if count == 1:
        return ["python"]
    machines = [f"--nnodes={count // here}"] if count > here else []
    return ["torchrun", *machines, f"--nproc_per_node={here}"]
