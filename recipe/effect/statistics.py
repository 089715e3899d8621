"""Paired differences between two arms, with 95 % intervals and p values that allow for the number of comparisons."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TypeVar

from mars.evaluation.summary import CONFIDENCE

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Estimate:
    """A mean with its uncertainty.

    n: number of values. se: standard error. low, high: ends of the 95 % interval. p: two-sided, of a mean of 0.
    All three are None for one value. p is also None if all values are equal and not 0, because Student's t is then not
    defined; the interval is the mean itself.
    """

    mean: float
    n: int
    se: float | None
    low: float | None
    high: float | None
    p: float | None


@dataclass(frozen=True)
class Difference:
    """Of the pairs of two arms.

    pairs: over the seeds, as if they were independent. Seeds that share a cold start are not quite.
    starts: over the means of each cold start's differences; None with fewer than three cold starts. Its interval holds
        for other cold starts, too. The other one holds for these cold starts.
    """

    pairs: Estimate
    starts: Estimate | None


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean, standard error and Student's t interval; None without values.

    With s the standard deviation over n - 1: se = s / sqrt(n), interval mean ± t(n - 1, 0.975) se.

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
    if se == 0:
        return Estimate(mean, n, se, mean, mean, 1.0 if mean == 0 else None)
    p = float(2 * stdtr(n - 1, -abs(mean) / se))
    return Estimate(mean, n, se, mean - half, mean + half, p)


def paired_difference(
    arm: Mapping[Key, float], other: Mapping[Key, float], start_of: Mapping[Key, Hashable]
) -> Difference | None:
    """arm minus other over the pairs that both have; None without pairs.

    arm, other: pair (a seed) -> value. start_of: pair -> its cold start.
    """
    pairs = [key for key in arm if key in other]
    found = {key: arm[key] - other[key] for key in pairs}
    over_pairs = estimate(list(found.values()))
    if over_pairs is None:
        return None
    by_start: dict[Hashable, list[float]] = {}
    for key, value in found.items():
        by_start.setdefault(start_of[key], []).append(value)
    means = [fmean(values) for values in by_start.values()]
    return Difference(over_pairs, estimate(means) if len(means) >= 3 else None)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p values adjusted for their number (Holm 1979); None stays None and does not count.

    The k-th smallest of m, k from 0, is multiplied by m - k, cut to 1, and is at least as large as those before it.

    Example: 0.01, 0.04, 0.03 become 0.03, 0.06, 0.06.
    """
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        adjusted[index] = largest
    return adjusted
