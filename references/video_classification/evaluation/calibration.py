"""Probabilities that mean what they say: temperature scaling and its measure, the expected calibration error (Guo et
al., On Calibration of Modern Neural Networks, arXiv 1706.04599).

The temperature acts on a video's score, the mean of its clips' softmax outputs: with one clip a video that is
softmax(logits / temperature), and with any number the prediction stays the same one.
"""

import math
from typing import NamedTuple

import numpy as np
from torch import Tensor

BINS = 15  # as in the paper
LIMITS = (0.05, 100.0)  # of the temperature; where every prediction is right, lower is always better
SMALLEST = 5e-324  # the smallest float64 above 0: what a softmax output of 0 may have been


def fit_temperature(scores: Tensor, targets: Tensor) -> float:
    """The temperature that makes `targets` most likely.

    Args:
        scores: (V, num_classes), each row sums to 1; rows that are not numbers are left out.
        targets: int64 (V,).

    Returns:
        Within LIMITS; 1 where there is nothing to fit.
    """
    from scipy.optimize import minimize_scalar  # takes most of a second, and only --calibrate needs it

    is_number = ~scores.isnan().any(1)
    log_scores, targets = _log(scores[is_number]), targets[is_number]
    if not len(targets) or scores.shape[1] < 2:
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = (log_scores / float(np.exp(log_temperature))).log_softmax(1)
        return -scaled.gather(1, targets[:, None]).mean().item()

    # In 1 / temperature the loss is convex, so that there is one minimum only.
    found = minimize_scalar(loss, bounds=tuple(np.log(LIMITS)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def calibrated(scores: Tensor, temperature: float) -> Tensor:
    """Mean softmax scores (V, num_classes) at `temperature`: the same order of classes, other probabilities."""
    return scores if temperature == 1.0 else (_log(scores) / temperature).softmax(1)


def is_at_limit(temperature: float) -> bool:
    """Whether the fit ended at one of LIMITS: the videos do not determine a temperature."""
    return any(math.isclose(temperature, limit, rel_tol=1e-3) for limit in LIMITS)


class Reliability(NamedTuple):
    """Per bin of equal width from 0 to 1, (BINS,): how many videos, their mean probability, the share that is right."""

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def expected_calibration_error(self) -> float:
        """The mean distance between probability and share, over videos; from 0 to 1, nan of no videos."""
        count = self.counts.sum()
        return float((self.counts * np.abs(self.confidence - self.accuracy)).sum() / count) if count else math.nan


def reliability(probabilities: np.ndarray, right: np.ndarray) -> Reliability:
    """Puts predictions into bins.

    Args:
        probabilities: (V,), of the predicted class. A value on a bin's upper edge belongs to it, as in the paper.
        right: bool (V,).
    """
    bins = np.clip(np.ceil(probabilities * BINS).astype(int) - 1, 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    sums = (np.bincount(bins, weights=values, minlength=BINS) for values in (probabilities, right))
    confidence, accuracy = (total / np.maximum(counts, 1) for total in sums)
    return Reliability(counts, confidence, accuracy)


def _log(scores: Tensor) -> Tensor:
    return scores.double().clamp_min(SMALLEST).log()
