"""Draws a series of numbers as a chart of characters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from mars.report.plots import can_be_drawn

BLOCKS = " ▁▂▃▄▅▆▇█"
LETTERS = " .:-=+*%@"
"""For a terminal whose encoding has no blocks: from empty to full, like `BLOCKS`."""


def columns(values: Sequence[object], width: int) -> list[float | None]:
    """At most `width` numbers that represent `values`, in order; None where there is nothing to draw.

    If there are more values than columns, a column is the mean of its values. The mean leaves out NaN, infinities,
    numbers beyond 1e100, and values that are not numbers.

    >>> columns([1.0, 3.0, None, 4.0, float("nan"), None], 3)
    [2.0, 4.0, None]
    """
    count = min(len(values), max(width, 0))
    bounds = [place * len(values) // count for place in range(count + 1)] if count else []
    return [_mean(values[first:last]) for first, last in pairwise(bounds)]


def curve(heights: Sequence[float | None], lines: int, levels: str = BLOCKS) -> list[str]:
    """`lines` lines of text, the upper one first, with a bar for each of `heights`; None leaves an empty place.

    The lowest bar has the lowest level that is not empty, and the highest one fills all lines. If all heights are
    equal, bars fill half of the lines. levels: nine characters, from empty to full.

    >>> curve([0.0, 1.0, None, 0.5], 1)
    ['▁█ ▅']
    >>> curve([0.0, 1.0, 0.5], 2)
    [' █▁', '▁██']
    """
    known = [height for height in heights if height is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    steps = len(levels) - 1
    top = steps * lines

    def level(height: float | None) -> int:
        if height is None:
            return 0
        return 1 + round((height - low) / (high - low) * (top - 1)) if high > low else top // 2

    bars = [level(height) for height in heights]
    return [
        "".join(levels[min(max(bar - steps * below, 0), steps)] for bar in bars) for below in reversed(range(lines))
    ]


def _mean(values: Sequence[object]) -> float | None:
    known = [float(value) for value in values if can_be_drawn(value)]
    return sum(known) / len(known) if known else None
