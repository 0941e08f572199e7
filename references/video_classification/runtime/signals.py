"""Signals that ask a run to stop: it saves at the next step and prints how to continue."""

import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

# SIGTERM: a machine is taken away, or torchrun ends its processes. SIGUSR1: Slurm's warning before the time limit.
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]  # not on Windows


# Slurm signals every process of a job and torchrun passes the signal on: what comes this soon after a stop is the same
# stop, and must not end the saving of what was built.
SAME_STOP_SECONDS = 20.0


class Stopped(BaseException):
    """A signal ends the run, which has been saved if there was anything to save.

    Not an Exception, like KeyboardInterrupt: code that continues after any error must not continue after this.
    """

    def __init__(self, signal_number: int, is_saved: bool = True) -> None:
        saved = ", the run is saved" if is_saved else ""
        super().__init__(f"stopped by {signal.Signals(signal_number).name}{saved}")
        self.exit_code = 128 + signal_number


class StopRequest:
    """A context manager that notes the first stop signal as `signal_number`, which is 0 until then.

    With `at_once` it raises Stopped wherever the run is, since it has nothing to save; otherwise it interrupts nothing.
    """

    _stopped_at: float | None = None  # by time.monotonic, when any of them raised

    def __init__(self, at_once: bool = False) -> None:
        self.signal_number, self._at_once, self._is_saved = 0, at_once, False

    def __enter__(self) -> "StopRequest":
        StopRequest._stopped_at = None
        self._before = [signal.signal(number, self._note) for number in STOP_SIGNALS]
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in zip(STOP_SIGNALS, self._before, strict=True):
            signal.signal(number, handler)

    @contextlib.contextmanager
    def stopping_at_once(self) -> Iterator[None]:
        """Inside, signals raise Stopped wherever the run is: all that it did is saved. Raises it for one that came."""
        self._at_once = self._is_saved = True
        try:
            if self.signal_number:
                self._stop(self.signal_number)
            yield
        finally:
            self._at_once = False

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal_number = self.signal_number or number
        if self._at_once:
            before = StopRequest._stopped_at
            if before is None or time.monotonic() - before > SAME_STOP_SECONDS:
                self._stop(number)

    def _stop(self, number: int) -> None:
        StopRequest._stopped_at = time.monotonic()
        raise Stopped(number, self._is_saved)


class HeldSignals:
    """A context manager that holds Ctrl-C and the stop signals back until its block ends; a second one acts at once.

    The reason says what the block ends with, and is printed when a signal comes.
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


@dataclass
class ResumeCommand:
    """What the user types to continue a run: its own command again, with `--resume auto` once there is what to resume.

    Until this run `has_saved` one, `--resume auto` would begin anew, or continue another run in the same folder.
    """

    argv: list[str]
    has_saved: bool = False

    def __str__(self) -> str:
        words = [*_without_start(self.argv), "--resume", "auto"] if self.has_saved else self.argv
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
    """What starts the processes; torchrun tells each how many there are in all, and on its machine.

    Where several machines meet it does not tell: that is left to fill in.
    """
    count, here = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if count == 1:
        return ["python"]
    meeting = [f"--nnodes={count // here}", "--rdzv_backend=c10d", "--rdzv_endpoint=HOST:PORT"]
    machines = meeting if count > here else []
    restarts = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")
    restarted = [] if restarts == "0" else [f"--max-restarts={restarts}"]
    return ["torchrun", *machines, f"--nproc_per_node={here}", *restarted]
