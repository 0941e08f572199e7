"""Signals that ask a run to stop: it saves at the next step and prints how to continue."""

import os
import shlex
import signal
import sys
from types import FrameType

# SIGTERM: a machine is taken away, or torchrun ends its processes. SIGUSR1: Slurm's warning before the time limit.
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]  # not on Windows


class Stopped(BaseException):
    """A signal ends the run, which has been saved if there was anything to save.

    Not an Exception, like KeyboardInterrupt: code that continues after any error must not continue after this.
    """

    def __init__(self, signal_number: int, is_saved: bool = True) -> None:
        saved = ", the run is saved" if is_saved else ""
        super().__init__(f"stopped by {signal.Signals(signal_number).name}{saved}")
        self.exit_code = 128 + signal_number


class StopRequest:
    """A context manager that notes the stop signals.

    Args:
        at_once: raise Stopped wherever the run is, since it has nothing to save; otherwise they interrupt nothing.

    Attributes:
        signal_number: the first signal received, 0 if none.
    """

    def __init__(self, at_once: bool = False) -> None:
        self.signal_number, self._at_once = 0, at_once

    def __enter__(self) -> "StopRequest":
        self._before = [signal.signal(number, self._note) for number in STOP_SIGNALS]
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in zip(STOP_SIGNALS, self._before, strict=True):
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal_number = self.signal_number or number
        if self._at_once:
            raise Stopped(number, is_saved=False)


class HeldSignals:
    """A context manager that holds Ctrl-C and the stop signals back until its block ends; a second one acts at once.

    Args:
        reason: what the block ends with, printed when a signal comes.
    """

    def __init__(self, reason: str) -> None:
        self._reason, self._held = reason, 0

    def __enter__(self) -> None:
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, *STOP_SIGNALS)}
        self._before = {number: handler for number, handler in handlers.items() if callable(handler)}  # not if ignored
        for number in self._before:
            signal.signal(number, self._hold)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._held:
            signal.raise_signal(self._held)

    def _hold(self, number: int, frame: FrameType | None) -> None:
        if self._held:
            raise KeyboardInterrupt
        self._held = number
        print(f"stopping once {self._reason}; again: at once", file=sys.stderr, flush=True)


class ResumeCommand:
    """What the user types to continue a run: its own command again, with `--resume auto` once there is what to resume.

    Args:
        argv: the script and its arguments.

    Attributes:
        has_saved: whether this run has written a checkpoint. Until then `--resume auto` would begin anew, or continue
            another run in the same folder.
    """

    def __init__(self, argv: list[str]) -> None:
        self._argv, self.has_saved = argv, False

    def __str__(self) -> str:
        words = [*_without_start(self._argv), "--resume", "auto"] if self.has_saved else self._argv
        return shlex.join([*_launcher(), *words])


def _without_start(argv: list[str]) -> list[str]:
    """The arguments without those that say what a run begins with, which would undo what has been done since."""
    words = [word for word in argv if word != "--overwrite" and not word.startswith(("--start-epoch=", "--resume="))]
    for flag in ("--start-epoch", "--resume"):
        while flag in words:  # the last of several counts
            place = words.index(flag)
            del words[place : place + 2]
    return words


def _launcher() -> list[str]:
    """What starts the processes; torchrun tells each how many there are in all, and on its machine."""
    count, here = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if count == 1:
        return ["python"]
    machines = [f"--nnodes={count // here}"] if count > here else []
    return ["torchrun", *machines, f"--nproc_per_node={here}"]
