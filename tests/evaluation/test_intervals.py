"""Intervals and tests against slow, obvious computations."""

import math
from itertools import product

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import multinomial, norm

from evaluation.intervals import Interval, mcnemar_test, mean_interval, paired_difference, wilson_interval

Z = norm.ppf(0.975)


@pytest.mark.parametrize("right, count", [(0, 1), (1, 1), (3, 10), (0, 40), (40, 40), (812, 1000)])
def test_wilson_is_where_the_score_test_turns(right, count):
    share = right / count

    def score(p):
        return (share - p) ** 2 - Z**2 * p * (1 - p) / count

    value, low, high = wilson_interval(right, count)
    assert value == share
    assert low == pytest.approx(brentq(score, 0, share - 1e-9) if right else 0, abs=1e-9)
    assert high == pytest.approx(brentq(score, share + 1e-9, 1) if right < count else 1, abs=1e-9)


def test_nothing_is_known_of_no_videos():
    value, low, high = wilson_interval(0, 0)
    assert math.isnan(value) and (low, high) == (0, 1)
    assert mean_interval([])[1:] == (0, 1)


def test_the_mean_of_one_share_is_that_share():
    assert mean_interval([wilson_interval(3, 7)]) == pytest.approx(wilson_interval(3, 7))


def test_the_mean_of_shares_stays_within_0_and_1_and_narrows_with_more():
    few, many = ([wilson_interval(6, 6), wilson_interval(1, 6)] * n for n in (1, 8))
    for shares in (few, many):
        mean = mean_interval(shares)
        assert mean.value == pytest.approx(7 / 12) and 0 <= mean.low < mean.value < mean.high <= 1
    assert mean_interval(many).high - mean_interval(many).low < 0.5 * (mean_interval(few).high - mean_interval(few).low)
    assert mean_interval([wilson_interval(0, 3)] * 4).low == 0


def test_the_mean_interval_holds_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(0)
    truths, count = np.array([0.95, 0.6, 0.8, 0.3]), 25
    right = generator.binomial(count, truths, size=(1500, 4))
    table = [wilson_interval(k, count) for k in range(count + 1)]
    held = [low <= truths.mean() <= high for _, low, high in (mean_interval([table[k] for k in row]) for row in right)]
    assert 0.93 <= np.mean(held) <= 0.99


def outcomes(both, only_a, only_b, neither):
    a = [True] * both + [True] * only_a + [False] * only_b + [False] * neither
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return a, b


def test_the_paired_interval_holds_the_truth_as_often_as_it_says():
    """Coverage, computed exactly over every outcome of 24 videos."""
    count = 24
    for both, only_a, only_b in ((0.7, 0.1, 0.15), (0.85, 0.05, 0.05), (0.3, 0.05, 0.4), (0.97, 0.01, 0.01)):
        law = multinomial(count, [only_a, only_b, 1 - only_a - only_b])
        held = 0.0
        for x, y in product(range(count + 1), repeat=2):
            if x + y <= count:
                _, low, high = paired_difference(*outcomes(count - x - y, x, y, 0))
                held += law.pmf([x, y, count - x - y]) * (low <= only_b - only_a <= high)
        assert held >= 0.93, (both, only_a, only_b, held)


def test_the_paired_interval_of_a_case_computed_by_hand():
    """98 videos, 9 right only in A and 19 only in B: (19+1)/100 - (9+1)/100 -+ 1.959964 sqrt((0.3 - 0.1^2) / 100)."""
    difference, low, high = paired_difference(*outcomes(50, 9, 19, 20))
    assert difference == pytest.approx(10 / 98)
    assert (low, high) == pytest.approx((-0.0055469, 0.2055469), abs=1e-6)


def test_the_paired_interval_ends_where_differences_do():
    """5 videos, all right only in B: 5/7 + 1.96 sqrt((1 - (5/7)^2) / 7) would be 1.23."""
    assert paired_difference(*outcomes(0, 0, 5, 0)) == (1.0, pytest.approx(0.195836, abs=1e-6), 1.0)
    assert paired_difference(*outcomes(0, 5, 0, 0)) == (-1.0, -1.0, pytest.approx(-0.195836, abs=1e-6))


def test_mcnemar_of_a_case_computed_by_hand():
    """1 against 6 changes: 2 (C(7,0) + C(7,1)) / 2^7 = 16 / 128."""
    assert mcnemar_test(*outcomes(3, 1, 6, 2)) == pytest.approx(0.125)


def test_percent_is_a_hundred_times():
    assert Interval(0.5, -0.25, 0.75).percent == (50, -25, 75)


def test_the_difference_is_b_minus_a():
    a, b = outcomes(10, 1, 5, 4)
    difference, low, high = paired_difference(a, b)
    assert difference == pytest.approx(0.2) and low < 0.2 < high
    assert paired_difference(b, a) == pytest.approx(Interval(-difference, -high, -low))


def test_runs_that_agree_everywhere_still_have_an_interval():
    difference, low, high = paired_difference([True] * 5, [True] * 5)
    assert difference == 0 and -1 <= low < 0 < high <= 1


@pytest.mark.parametrize("only_a, only_b", [(0, 0), (0, 5), (5, 0), (3, 3), (2, 9), (40, 21)])
def test_mcnemar_counts_the_outcomes_that_are_as_lopsided(only_a, only_b):
    count = only_a + only_b
    lopsided = [k for k in range(count + 1) if abs(2 * k - count) >= abs(only_a - only_b)]
    expected = sum(math.comb(count, k) for k in lopsided) / 2**count
    assert mcnemar_test(*outcomes(7, only_a, only_b, 2)) == pytest.approx(expected)


@pytest.mark.parametrize("a, b", [([True], [True, False]), ([], [])])
def test_other_videos_are_refused(a, b):
    for compare in (paired_difference, mcnemar_test):
        with pytest.raises(ValueError, match="same videos"):
            compare(a, b)
