"""How long one call takes, and a number of them. A room of its own: export and benchmark must measure alike."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Latency:
    """Milliseconds of single calls: median and 95th percentile."""

    median_ms: float
    p95_ms: float

    def __str__(self) -> str:
        return f"{self.median_ms:.1f} ms (95th percentile {self.p95_ms:.1f})"


def measure_latency(call: Callable[[], Any], repeats: int = 20, warm_up: int = 3) -> Latency:
    """Calls it `warm_up` times, then `repeats` times against the clock."""
    for _ in range(warm_up):
        call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return Latency(float(np.median(times)), float(np.percentile(times, 95)))
