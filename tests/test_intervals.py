"""Intervals: they contain the true value as often as they say."""

import math

import numpy as np
import pytest
from scipy import stats

from fotmem.measure.evaluate.intervals import half_interval, ratio_interval, wilson


@pytest.mark.parametrize(
    ("pairs", "both", "only_above", "only_below"),
    [(13, 0.6, 0.1, 0.2), (20, 0.5, 0.05, 0.15), (100, 0.3, 0.05, 0.3)],
)
def test_ratios_are_inside_in_95_of_100_cases(
    pairs: int, both: float, only_above: float, only_below: float
) -> None:
    draw = np.random.default_rng(0)
    chances = [both, only_above, only_below, 1 - both - only_above - only_below]
    true = (both + only_above) / (both + only_below)
    inside = 0
    for _ in range(1000):
        case = draw.choice(4, size=pairs, p=chances)
        counts = [int(np.isin(case, kinds).sum()) for kinds in ((0, 1), (0, 2), (1, 2))]
        found = ratio_interval(*counts)
        inside += found is not None and found[0] <= true <= found[1]
    assert 0.935 <= inside / 1000 <= 0.985


def test_equal_answers_do_not_make_a_ratio_certain() -> None:
    low, high = ratio_interval(4, 4, 0) or (1, 1)
    assert low < 0.7
    assert high > 1.4
    assert ratio_interval(1, 0, 1) is None
    assert (ratio_interval(0, 2, 2) or (1, 1))[0] == 0


def test_means_have_the_interval_of_student() -> None:
    values = [0.3, 0.1, 0.4, 0.1, 0.5]
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert 2 * half_interval(values) == pytest.approx(high - low)
    assert math.isnan(half_interval([0.3]))
    assert half_interval([0.3, 0.3]) == 0


def test_shares_have_the_interval_of_wilson() -> None:
    expected = stats.binomtest(7, 9).proportion_ci(method="wilson")
    assert wilson(7, 9) == pytest.approx((expected.low, expected.high), abs=1e-4)
