"""Temperature scaling and the expected calibration error (Guo et al., On Calibration of Modern Neural Networks, arXiv
1706.04599).

The temperature acts on a video's score, the mean softmax output of its clips. With one clip a video this is
softmax(logits / temperature); with any number of clips the prediction is unchanged.
"""

import math
from typing import NamedTuple

import numpy as np
from torch import Tensor

BINS = 15  # as in the paper
LIMITS = (0.05, 100.0)  # of the temperature: where every prediction is right, the likelihood has no maximum
SMALLEST = 5e-324  # the smallest float64 above 0, in place of softmax outputs that underflowed


def fit_temperature(scores: Tensor, targets: Tensor) -> float:
    """The temperature within LIMITS that maximizes the likelihood of `targets`, int64 (V,); 1 if there are none.

    Each row of the scores (V, num_classes) sums to 1; rows with NaN are left out.
    """
    from scipy.optimize import minimize_scalar  # takes most of a second to import, and only --calibrate needs it

    is_number = ~scores.isnan().any(1)
    log_scores, targets = _log(scores[is_number]), targets[is_number]
    if not len(targets) or scores.shape[1] < 2:
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = (log_scores / float(np.exp(log_temperature))).log_softmax(1)
        return -scaled.gather(1, targets[:, None]).mean().item()

    # The loss is convex in 1 / temperature, so there is a single minimum.
    found = minimize_scalar(loss, bounds=tuple(np.log(LIMITS)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def calibrated(scores: Tensor, temperature: float) -> Tensor:
    """Scores (V, num_classes) rescaled to `temperature`; the order of the classes stays the same."""
    return scores if temperature == 1.0 else (_log(scores) / temperature).softmax(1)


def is_at_limit(temperature: float) -> bool:
    """Whether the fit ended at one of LIMITS: the videos do not determine a temperature."""
    return any(math.isclose(temperature, limit, rel_tol=1e-3) for limit in LIMITS)


class Reliability(NamedTuple):
    """Predictions in BINS bins of equal width over [0, 1]; each array is (BINS,)."""

    counts: np.ndarray  # videos
    confidence: np.ndarray  # their mean probability
    accuracy: np.ndarray  # the share predicted right

    @property
    def expected_calibration_error(self) -> float:
        """The mean of |confidence - accuracy| over videos, from 0 to 1; nan without videos."""
        count = self.counts.sum()
        return float((self.counts * np.abs(self.confidence - self.accuracy)).sum() / count) if count else math.nan


def reliability(probabilities: np.ndarray, right: np.ndarray) -> Reliability:
    """Bins predictions by their probability (V,), and bool (V,) whether they are right.

    A bin includes its upper edge, as in the paper.
    """
    bins = np.clip(np.ceil(probabilities * BINS).astype(int) - 1, 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    sums = (np.bincount(bins, weights=values, minlength=BINS) for values in (probabilities, right))
    confidence, accuracy = (total / np.maximum(counts, 1) for total in sums)
    return Reliability(counts, confidence, accuracy)


def _log(scores: Tensor) -> Tensor:
    return scores.double().clamp_min(SMALLEST).log()
