"""Shows progress: a tqdm bar on a terminal, elsewhere a plain line from time to time."""

import datetime
import math
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from runtime.distributed import is_main, print_main

# Without percentage and steps a second, so that the values have room on a screen of 100 columns.
STEPS_BAR = "{desc}  {n_fmt}/{total_fmt} |{bar}| {elapsed}<{remaining}{postfix}"
SECONDS_BETWEEN_LINES = 30.0  # so that one comes at least every minute, where no step takes longer than half of that


@dataclass
class Progress:
    """A context manager that shows the progress of long work."""

    description: str  # what is being done, such as "Predicting"
    total: int  # number of items
    unit: str  # what is counted, in the singular
    quiet: bool = False  # print nothing, since another process does

    def __post_init__(self) -> None:
        self._done = 0
        self._start = self._last_line = time.monotonic()
        self._bar = None
        if sys.stderr.isatty() and not self.quiet:
            self._bar = tqdm(desc=self.description, total=self.total, unit=self.unit, dynamic_ncols=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, count: int = 1, note: str = "") -> None:
        """Counts `count` more items as done; `note` is shown at the end of the line."""
        self._done += count
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif not self.quiet and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            rate = self._done / (time.monotonic() - self._start)
            eta = remaining_time(self._start, self._done, self.total)
            done = f"{self._done}/{self.total} {self.unit}s, {rate:.1f}/s, eta {eta}{f', {note}' if note else ''}"
            print(f"{self.description}: {done}", flush=True)


def remaining_time(begin: float, done: int, total: int) -> str:
    """The time that the rest takes at the rate since `begin` (of time.monotonic), as h:mm:ss."""
    seconds = (time.monotonic() - begin) / max(done, 1) * (total - done)
    return str(datetime.timedelta(seconds=round(seconds)))


@dataclass
class StepMeter:
    """Times the steps of an epoch and shows them: a bar on a terminal, elsewhere a line from time to time.

    Iterate over it instead of over the batches, and call `update` after each step.
    """

    header: str  # printed before each line, such as "Epoch: [0]"
    batches: Iterable[Any]  # the steps'
    num_steps: int  # of the whole epoch
    print_freq: int | None = None  # also print a line every so many steps, and at the last
    first_step: int = 0  # of the first batch, above 0 where an interrupted epoch is continued
    at_once: bool = False  # print a line after the first step too, as the sign that steps are taken
    data_seconds: float = field(default=0.0, init=False)  # spent waiting for batches
    clips: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._last_line = -math.inf if self.at_once else time.monotonic()
        self._bar, self._start = None, time.perf_counter()
        if is_main() and sys.stderr.isatty():
            count = {"total": self.num_steps, "initial": self.first_step}
            self._bar = tqdm(desc=self.header, **count, bar_format=STEPS_BAR, dynamic_ncols=True, leave=False)

    @property
    def seconds(self) -> float:
        """Time since the epoch began."""
        return time.perf_counter() - self._start

    def __iter__(self) -> Iterator[Any]:
        self._start = time.perf_counter()
        iterator = iter(self.batches)
        try:
            while True:
                asked = time.perf_counter()
                batch = next(iterator, None)
                self.data_seconds += time.perf_counter() - asked
                if batch is None:
                    return
                yield batch
        finally:
            if self._bar is not None:
                self._bar.close()

    def update(self, step: int, clips: int, **values: float) -> None:
        """Counts step number `step`, from 0, of `clips` clips as done, and shows `values`."""
        self.clips += clips
        if self._bar is not None:
            self._bar.set_postfix_str(self._values(values), refresh=False)
            self._bar.update()
        elif self._is_due(step):
            self._last_line = time.monotonic()
            print_main(f"{self.header}  [{step + 1}/{self.num_steps}]  {self._values(values)}")

    def _is_due(self, step: int) -> bool:
        """Whether a line is to be printed after this step."""
        if time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            return True
        return self.print_freq is not None and (step % self.print_freq == 0 or step == self.num_steps - 1)

    def _values(self, values: dict[str, float]) -> str:
        shown = "  ".join(f"{name}: {value:.4g}" for name, value in values.items())
        seconds = max(self.seconds, 1e-9)
        return f"{shown}  clips/s: {self.clips / seconds:.1f}  data: {100 * self.data_seconds / seconds:.1f} %"
