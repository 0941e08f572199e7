"""Signals that ask a run to end: it saves at the next step and tells how to go on. A room of its own, as no other
module has to do with the operating system's signals.
"""

import shlex
import signal
from types import FrameType

# SIGTERM: a machine is taken away, or torchrun ends its processes. SIGUSR1: Slurm's warning before the time limit.
STOP_SIGNALS = ("SIGTERM", "SIGUSR1")


class Stopped(Exception):
    """The run has saved and ends, as `signal_number` asked for."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}")
        self.exit_code = 128 + signal_number


class StopRequest:
    """Notes the signals while the block runs; they interrupt nothing.

    Attributes:
        signal_number: of the first that came, 0 before.
    """

    def __init__(self) -> None:
        self.signal_number = 0
        self._numbers = [getattr(signal, name) for name in STOP_SIGNALS if hasattr(signal, name)]

    def __enter__(self) -> "StopRequest":
        self._before = [signal.signal(number, self._note) for number in self._numbers]
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in zip(self._numbers, self._before, strict=True):
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal_number = self.signal_number or number


def resume_command(argv: list[str]) -> str:
    """What the user types to go on with the run that `argv`, the script and its arguments, began."""
    words = [word for word in argv if word != "--overwrite"]
    if "--resume" in words:
        words[words.index("--resume") + 1] = "auto"
    else:
        words += ["--resume", "auto"]
    return shlex.join(["python", *words])
