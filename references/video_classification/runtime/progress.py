"""Shows progress: a tqdm bar on a terminal, elsewhere a plain line from time to time."""

import datetime
import math
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

from runtime.distributed import is_main, print_main

# Without percentage and steps a second, so that the values have room on a screen of 100 columns.
STEPS_BAR = "{desc}  {n_fmt}/{total_fmt} |{bar}| {elapsed}<{remaining}{postfix}"
SECONDS_BETWEEN_LINES = 30.0  # so that one comes at least every minute, where no step takes longer than half of that


class Progress:
    """A context manager that shows the progress of long work.

    Args:
        description: what is being done, such as "Predicting".
        total: the number of items.
        unit: what is counted, in the singular.
        quiet: print nothing, since another process does.
    """

    def __init__(self, description: str, total: int, unit: str, quiet: bool = False) -> None:
        self._description, self._total, self._unit, self._quiet = description, total, unit, quiet
        self._is_terminal = sys.stderr.isatty() and not quiet
        self._done = 0
        self._start = self._last_line = time.monotonic()
        self._bar = tqdm(desc=description, total=total, unit=unit, dynamic_ncols=True) if self._is_terminal else None

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
        elif not self._quiet and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            print(self._line(note), flush=True)

    def _line(self, note: str) -> str:
        rate = self._done / (time.monotonic() - self._start)
        eta = remaining_time(self._start, self._done, self._total)
        line = f"{self._description}: {self._done}/{self._total} {self._unit}s, {rate:.1f}/s, eta {eta}"
        return f"{line}, {note}" if note else line


def remaining_time(begin: float, done: int, total: int) -> str:
    """The time that the rest takes at the rate since `begin` (of time.monotonic), as h:mm:ss."""
    seconds = (time.monotonic() - begin) / max(done, 1) * (total - done)
    return str(datetime.timedelta(seconds=round(seconds)))


class StepMeter:
    """Times the steps of an epoch and shows them: a bar on a terminal, elsewhere a line from time to time.

    Iterate over it instead of over the batches, and call `update` after each step.

    Args:
        header: printed before each line, such as "Epoch: [0]".
        batches: the steps' batches.
        num_steps: steps of the whole epoch.
        print_freq: also print a line every so many steps, and at the last.
        first_step: number of the first batch's step, above 0 where an interrupted epoch is continued.
        at_once: print a line after the first step too, as the sign that steps are taken.
    """

    def __init__(
        self,
        header: str,
        batches: Iterable[Any],
        num_steps: int,
        print_freq: int | None = None,
        first_step: int = 0,
        at_once: bool = False,
    ) -> None:
        self._header, self._batches, self._num_steps, self._print_freq = header, batches, num_steps, print_freq
        self._last_line = -math.inf if at_once else time.monotonic()
        self._bar = None
        if is_main() and sys.stderr.isatty():
            self._bar = tqdm(
                desc=header,
                total=num_steps,
                initial=first_step,
                dynamic_ncols=True,
                leave=False,
                bar_format=STEPS_BAR,
            )
        self._start = time.perf_counter()
        self.data_seconds = 0.0  # spent waiting for batches
        self.clips = 0

    @property
    def seconds(self) -> float:
        """Time since the epoch began."""
        return time.perf_counter() - self._start

    def __iter__(self) -> Iterator[Any]:
        self._start = time.perf_counter()
        iterator = iter(self._batches)
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
            print_main(f"{self._header}  [{step + 1}/{self._num_steps}]  {self._values(values)}")

    def _is_due(self, step: int) -> bool:
        """Whether a line is to be printed after this step."""
        if time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            return True
        return self._print_freq is not None and (step % self._print_freq == 0 or step == self._num_steps - 1)

    def _values(self, values: dict[str, float]) -> str:
        shown = "  ".join(f"{name}: {value:.4g}" for name, value in values.items())
        seconds = max(self.seconds, 1e-9)
        return f"{shown}  clips/s: {self.clips / seconds:.1f}  data: {100 * self.data_seconds / seconds:.1f} %"
