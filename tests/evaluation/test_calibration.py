import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from evaluation.calibration import BINS, LIMITS, calibrated, fit_temperature, is_at_limit, reliability


def overconfident(count=400, classes=5, seed=0):
    """Logits that are three times too large, and targets drawn from what they should be."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator, dtype=torch.float64) * 1.5
    targets = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return 3 * logits, targets


def test_the_temperature_is_the_best_of_a_fine_grid():
    logits, targets = overconfident()
    found = fit_temperature(logits.softmax(1), targets)
    grid = np.arange(0.5, 8, 0.005)
    scaled = logits.numpy() / grid[:, None, None]
    of_targets = np.take_along_axis(scaled, targets.numpy()[None, :, None], 2)[..., 0]
    losses = (logsumexp(scaled, axis=2) - of_targets).mean(1)
    assert found == pytest.approx(grid[int(np.argmin(losses))], abs=0.006)
    assert 2 < found < 4.5 and not is_at_limit(found)


def test_of_one_clip_it_is_the_softmax_of_divided_logits():
    logits, _ = overconfident(20)
    torch.testing.assert_close(calibrated(logits.softmax(1), 2.5), (logits / 2.5).softmax(1))


@pytest.mark.parametrize("temperature", [0.05, 0.7, 1.0, 3.0, 100.0])
def test_predictions_never_change(temperature):
    generator = torch.Generator().manual_seed(1)
    # Means of three clips, some of them so sure that most classes have no probability at all.
    scores = (torch.randn(500, 3, 7, generator=generator, dtype=torch.float64) * 300).softmax(2).mean(1)
    after = calibrated(scores, temperature)
    # Scores that differ in their last digit may become equal, but no other one becomes the highest.
    assert torch.equal(after.gather(1, scores.argmax(1, keepdim=True))[:, 0], after.amax(1))
    torch.testing.assert_close(after.sum(1), torch.ones(500, dtype=torch.float64))


def test_calibrating_lowers_the_error():
    logits, targets = overconfident()
    scores = logits.softmax(1)
    right = (scores.argmax(1) == targets).numpy()
    temperature = fit_temperature(scores, targets)
    before, after = (
        reliability(calibrated(scores, t).amax(1).numpy(), right).expected_calibration_error for t in (1, temperature)
    )
    assert after < 0.5 * before


def test_where_every_prediction_is_right_the_limit_is_said():
    scores = torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=torch.float64)
    temperature = fit_temperature(scores, torch.tensor([0, 1]))
    assert is_at_limit(temperature) and temperature == pytest.approx(LIMITS[0], rel=1e-3)


def test_outputs_that_are_no_numbers_are_left_out():
    logits, targets = overconfident(50)
    scores = logits.softmax(1)
    spoiled = torch.cat([scores, torch.full((3, 5), torch.nan)])
    assert fit_temperature(spoiled, torch.cat([targets, targets[:3]])) == fit_temperature(scores, targets)
    assert fit_temperature(spoiled[-3:], targets[:3]) == 1


def slow_calibration_error(probabilities, right):
    total = 0.0
    for b in range(BINS):
        low, high = b / BINS, (b + 1) / BINS
        inside = [i for i, p in enumerate(probabilities) if low < p <= high]
        if inside:
            confidence = sum(probabilities[i] for i in inside) / len(inside)
            accuracy = sum(right[i] for i in inside) / len(inside)
            total += len(inside) / len(probabilities) * abs(confidence - accuracy)
    return total


def test_the_calibration_error_agrees_with_a_loop():
    generator = np.random.default_rng(0)
    probabilities = np.concatenate([generator.random(500), [1.0, 0.4, 1e-9]])
    right = generator.random(503) < probabilities**2
    found = reliability(probabilities, right)
    assert found.expected_calibration_error == pytest.approx(slow_calibration_error(probabilities, right))
    assert found.counts.sum() == 503
    assert math.isnan(reliability(np.array([]), np.array([], bool)).expected_calibration_error)
