"""Paired differences between two arms, with 95 % intervals, and p values adjusted for the number of comparisons."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TypeVar

from mars.evaluation.summary import CONFIDENCE

Key = TypeVar("Key", bound=Hashable)
# Values count as equal if they differ by less than this, relative to the numbers that they were computed from.
# For example, 0.3 - 0.2 and 0.4 - 0.3 differ by 6e-17.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A mean with its uncertainty.

    n: number of values. se: standard error. low, high: ends of the 95 % interval. p: two-sided, for the hypothesis that
    the mean is 0. For a single value, se, low, high and p are None. If all values are equal and not 0, Student's t is
    not defined: then p is None, and the interval is the mean itself.
    """

    mean: float
    n: int
    se: float | None
    low: float | None
    high: float | None
    p: float | None


@dataclass(frozen=True)
class Difference:
    """The difference of two arms over their pairs.

    pairs: over the seeds. Its p and interval are for the cold starts of these seeds. For other cold starts its p is too
        small if the difference depends on the cold start. With 9 seeds on 3 cold starts and no effect on average,
        p < 0.05 occurs in 10 % of studies if a fifth of the variance is between cold starts, and in 18 % if half is.
    starts: over the means of each cold start's differences; None with fewer than three cold starts. It holds for other
        cold starts too, but with only three of them it detects only large differences.
    """

    pairs: Estimate
    starts: Estimate | None


def estimate(values: Sequence[float], scale: float | None = None) -> Estimate | None:
    """Mean, standard error and Student's t interval; None without values.

    With s the standard deviation over n - 1: se = s / sqrt(n), interval mean ± t(n - 1, 0.975) se.
    scale: how large the numbers are from which the values were computed, for example by subtraction. Values that differ
    only by rounding at this size count as equal. By default it is the largest absolute value.

    Example: 1, 2, 3 have mean 2, se 0.577 and interval -0.48 to 4.48.
    """
    if not values:
        return None
    n, mean = len(values), fmean(values)
    if n == 1:
        return Estimate(mean, 1, None, None, None, None)
    from scipy.special import stdtr, stdtrit

    se = stdev(values) / math.sqrt(n)
    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * se
    rounding = _ROUNDING * (max(map(abs, values)) if scale is None else scale)
    if max(values) - min(values) <= rounding:
        return Estimate(mean, n, 0.0, mean, mean, 1.0 if abs(mean) <= rounding else None)
    p = float(2 * stdtr(n - 1, -abs(mean) / se))
    return Estimate(mean, n, se, mean - half, mean + half, p)


def paired_difference(
    arm: Mapping[Key, float], other: Mapping[Key, float], start_of: Mapping[Key, Hashable]
) -> Difference | None:
    """arm minus other over the pairs that both have; None without pairs.

    arm, other: key of a pair (its seed) -> value. start_of: key of a pair -> its cold start.
    """
    pairs = [key for key in arm if key in other]
    found = {key: arm[key] - other[key] for key in pairs}
    scale = max((abs(values[key]) for key in pairs for values in (arm, other)), default=None)
    over_pairs = estimate(list(found.values()), scale)
    if over_pairs is None:
        return None
    by_start: dict[Hashable, list[float]] = {}
    for key, value in found.items():
        by_start.setdefault(start_of[key], []).append(value)
    means = [fmean(values) for values in by_start.values()]
    return Difference(over_pairs, estimate(means, scale) if len(means) >= 3 else None)


def holm(p_values: Sequence[float | None], family: int) -> list[float | None]:
    """p values adjusted for the number of comparisons that were planned (Holm 1979).

    family: this number, at least the number of `p_values`. Comparisons without a p value (None, or missing) count
    as if p were 1, so that p values of an unfinished study are not adjusted too little.
    The k-th smallest p, k from 0, is multiplied by family - k and limited to 1. If the result is smaller than the one
    for the next smaller p, it is raised to that one.

    Example: 0.01, 0.04, 0.03 become 0.03, 0.06, 0.06 if family is 3, and 0.04, 0.09, 0.09 if it is 4.
    """
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, p * (family - rank)))
        adjusted[index] = largest
    return adjusted
