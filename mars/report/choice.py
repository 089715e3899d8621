"""Choose a few of many items for a page: evenly spread, so that they are typical of all, and always the same ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def evenly(items: Sequence[Item], number: int) -> list[Item]:
    """`number` items at equal distances, from the first to the last. For 1 only the last; all if there are no more than
    `number`.

    Example: 3 of 0 … 10 -> 0, 5, 10.
    """
    if len(items) <= number:
        return list(items)
    last = len(items) - 1
    return [items[last if number == 1 else i * last // (number - 1)] for i in range(number)]


def coarse_to_fine(number: int) -> list[int]:
    """The numbers 0 … number - 1, sorted by their reversed bits: the first few are spread over the whole range.

    >>> coarse_to_fine(6)
    [0, 4, 2, 1, 5, 3]
    """
    width = max(number - 1, 1).bit_length()
    reversed_bits = (int(f"{place:0{width}b}"[::-1], 2) for place in range(2**width))
    return [place for place in reversed_bits if place < number]


def shares(sizes: Sequence[int], number: int) -> list[int]:
    """How many items each group gives if `number` items are chosen in all.

    All groups give the same number. A group that is too small gives all it has, and the others give more. The first
    groups give one more if the number cannot be divided evenly.

    >>> shares([2, 100, 50], 24)
    [2, 11, 11]
    """
    given, left = [0] * len(sizes), min(number, sum(sizes))
    while left:
        for group, size in enumerate(sizes):
            if left and given[group] < size:
                given[group] += 1
                left -= 1
    return given
