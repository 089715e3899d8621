"""recipe/effect: paired differences, their intervals and adjusted p values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from recipe.effect.statistics import estimate, holm, paired_difference

values = st.lists(st.floats(-1, 1).map(lambda x: round(x, 6)), min_size=2, max_size=30)


def test_an_interval_by_hand():
    """1, 2, 3: mean 2, s = 1, SE = 1 / sqrt(3), t(2, 0.975) = 4.302653."""
    found = estimate([1.0, 2.0, 3.0])
    assert found is not None
    assert (found.mean, found.n) == (2.0, 3)
    assert found.se == pytest.approx(0.5773503)
    assert (found.low, found.high) == pytest.approx((2 - 4.302653 * 0.5773503, 2 + 4.302653 * 0.5773503))
    # t = 2 sqrt(3) with 2 degrees of freedom: p = 1 - t / sqrt(t^2 + 2) = 1 - sqrt(12 / 14).
    assert found.p == pytest.approx(1 - math.sqrt(12 / 14))


def test_one_value_none_and_equal_values():
    assert estimate([]) is None
    one = estimate([0.3])
    assert one is not None
    assert (one.mean, one.n, one.se, one.low, one.high, one.p) == (0.3, 1, None, None, None, None)
    equal, nothing = estimate([0.5, 0.5]), estimate([0.0, 0.0])
    assert equal is not None
    assert nothing is not None
    assert (equal.low, equal.high, equal.p) == (0.5, 0.5, None)
    assert nothing.p == 1.0


@given(values)
def test_against_scipy_and_numpy(sample):
    found = estimate(sample)
    assert found is not None
    assert found.mean == pytest.approx(np.mean(sample), abs=1e-12)
    assert found.se == pytest.approx(np.std(sample, ddof=1) / np.sqrt(len(sample)), abs=1e-12)
    if found.se is not None and found.se > 1e-9:
        reference = stats.ttest_1samp(sample, 0.0)
        low, high = reference.confidence_interval(0.95)
        assert found.p == pytest.approx(reference.pvalue, rel=1e-9, abs=1e-12)
        assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9, abs=1e-12)


def test_a_paired_difference_by_hand():
    """Differences 0.1, 0.2, 0.3, 0.2 of the seeds 0 to 3; seed 9 has no partner. Cold starts 1, 2, 3, 1 have the means
    0.15, 0.2 and 0.3."""
    arm = {0: 0.5, 1: 0.6, 2: 0.7, 3: 0.5}
    other = {0: 0.4, 1: 0.4, 2: 0.4, 3: 0.3, 9: 0.9}
    found = paired_difference(arm, other, {0: 1, 1: 2, 2: 3, 3: 1, 9: 1})
    assert found is not None
    assert found.starts is not None
    assert (found.pairs.mean, found.pairs.n) == (pytest.approx(0.2), 4)
    assert (found.starts.mean, found.starts.n) == (pytest.approx(0.65 / 3), 3)
    assert found.starts.se == pytest.approx(np.std([0.15, 0.2, 0.3], ddof=1) / math.sqrt(3))


def test_no_interval_over_fewer_than_three_cold_starts_and_none_without_pairs():
    found = paired_difference({0: 1.0, 1: 1.0}, {0: 0.0, 1: 0.5}, {0: 1, 1: 2})
    assert found is not None
    assert found.starts is None
    assert paired_difference({0: 1.0}, {1: 1.0}, {0: 1, 1: 2}) is None


def test_what_pairs_share_cancels_out():
    """The values of the seeds are far apart, their differences are not."""
    found = paired_difference({0: 0.1, 1: 0.9}, {0: 0.0, 1: 0.8}, {0: 1, 1: 2})
    assert found is not None
    assert found.pairs.se == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    "pairs",
    [
        [(0.5, 0.4), (0.7, 0.6), (0.3, 0.2), (0.2, 0.1)],  # 0.1 each, but for the last bit
        [(1000.1, 1000.0), (2000.1, 2000.0), (500.1, 500.0)],
    ],
)
def test_differences_that_are_equal_up_to_rounding_have_no_p_value(pairs):
    arm, other = ({seed: pair[side] for seed, pair in enumerate(pairs)} for side in (0, 1))
    found = paired_difference(arm, other, {seed: 1 + seed for seed in arm})
    assert found is not None
    assert found.starts is not None
    for part in (found.pairs, found.starts):
        assert (part.mean, part.se, part.p) == (pytest.approx(0.1), 0.0, None)
        assert part.low == part.high == part.mean


def test_no_difference_up_to_rounding_has_the_p_value_1():
    found = paired_difference({0: 0.1 + 0.2, 1: 0.7}, {0: 0.3, 1: 0.7}, {0: 1, 1: 2})
    assert found is not None
    assert found.pairs.p == 1.0


def test_small_differences_that_differ_are_not_equal():
    found = paired_difference({0: 0.5, 1: 0.500001}, {0: 0.5, 1: 0.5}, {0: 1, 1: 2})
    assert found is not None
    assert found.pairs.p == pytest.approx(0.5)  # 0 and d: t = 1 with 1 degree of freedom


def test_holm_by_hand():
    """Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.04, and none below an earlier one."""
    assert holm([0.04, 0.01, 0.03, 0.02], 4) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([], 3) == []


def test_holm_counts_comparisons_that_have_no_p_value():
    """Two of five: 0.01 x 5 and 0.02 x 4. The same as with p = 1 in the place of what is missing."""
    assert holm([0.02, None, 0.01], 5) == pytest.approx([0.08, None, 0.05])
    assert holm([0.02, 1.0, 0.01, 1.0, 1.0], 5) == pytest.approx([0.08, 1.0, 0.05, 1.0, 1.0])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(0, 20))
def test_holm_is_between_the_p_value_and_bonferroni(p_values, missing):
    family = len(p_values) + missing
    adjusted = holm(p_values, family)
    for p, q in zip(p_values, adjusted, strict=True):
        assert q is not None
        assert p <= q <= min(1.0, family * p) + 1e-12
    assert min(q for q in adjusted if q is not None) == min(1.0, family * min(p_values))
