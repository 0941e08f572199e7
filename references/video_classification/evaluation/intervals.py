"""Confidence intervals of accuracies, and tests of the difference between two of them on the same videos.

scipy.stats takes a second to import, which every script and worker process would pay: it is imported where it is used.
"""

from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
DEVIATIONS = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)  # the two-sided normal quantile, 1.96


class Interval(NamedTuple):
    """A share with its 95 % interval, from 0 to 1 (a difference: from -1 to 1)."""

    value: float
    low: float
    high: float

    @property
    def percent(self) -> tuple[float, float, float]:
        """The value and both ends, times 100."""
        return 100 * self.value, 100 * self.low, 100 * self.high


def wilson_interval(right: int, count: int) -> Interval:
    """The share `right / count` with Wilson's score interval (JASA 22:209, 1927); (nan, 0, 1) where `count` is 0."""
    from scipy.stats import binomtest

    if count == 0:
        return Interval(float("nan"), 0.0, 1.0)
    low, high = binomtest(right, count).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(right / count, float(low), float(high))


def mean_interval(shares: Sequence[Interval]) -> Interval:
    """The mean of independent shares; its interval combines theirs by MOVER (Zou et al., CSDA 53:1075, 2009)."""
    if not shares:
        return Interval(float("nan"), 0.0, 1.0)
    value, low, high = np.array(shares).T
    mean = float(value.mean())
    below, above = (float(np.sqrt(np.square(side).sum())) / len(shares) for side in (value - low, high - value))
    return Interval(mean, mean - below, mean + above)


def paired_difference(right_a: Sequence[bool], right_b: Sequence[bool]) -> Interval:
    """The accuracy of B minus that of A on the same videos, from -1 to 1, with a paired 95 % interval.

    The interval is Bonett and Price's adjusted Wald interval (JEBS 37:479, 2012). It keeps its coverage for few videos,
    and has a width where A and B agree everywhere. Both arguments are bool (N,), whether each video was predicted
    right, in the same order. Raises ValueError where the lengths differ, or there are no videos.
    """
    only_a, only_b, count = _discordant(right_a, right_b)
    share_a, share_b = (only_a + 1) / (count + 2), (only_b + 1) / (count + 2)
    centre = share_b - share_a
    reach = DEVIATIONS * np.sqrt((share_a + share_b - centre**2) / (count + 2))
    return Interval((only_b - only_a) / count, max(float(centre - reach), -1.0), min(float(centre + reach), 1.0))


def mcnemar_test(right_a: Sequence[bool], right_b: Sequence[bool]) -> float:
    """The p-value of McNemar's exact test (Psychometrika 12:153, 1947) that A and B are equally accurate.

    Args and errors: as `paired_difference`.
    """
    from scipy.stats import binomtest

    only_a, only_b, _ = _discordant(right_a, right_b)
    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def _discordant(right_a: Sequence[bool], right_b: Sequence[bool]) -> tuple[int, int, int]:
    """The number of videos that only A predicts right, that only B does, and of all videos."""
    a, b = np.asarray(right_a, bool), np.asarray(right_b, bool)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise ValueError(f"need the same videos of both, at least one, got {a.shape} and {b.shape}")
    return int((a & ~b).sum()), int((b & ~a).sum()), len(a)
