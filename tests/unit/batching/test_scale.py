"""Dividing and packing many items: the same as the plain algorithms, without a look at every pack for each item."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.batching.packs import first_fit, spread
from mars.batching.plan import assign_to_ranks
from mars.rollout.balance import split_by_tokens
from mars.types import RolloutRequest, Sampling

items = st.lists(st.tuples(st.integers(0, 12), st.sampled_from([0, 0, 3])), max_size=40)


@given(items, st.integers(1, 20))
def test_first_fit_is_the_plain_one(items, budget):
    packs, room = [], []
    for item, (cost, opening) in enumerate(items):
        pack = next((i for i, left in enumerate(room) if cost <= left), None)
        if pack is None:
            packs.append([item])
            room.append(budget - opening - cost)
        else:
            packs[pack].append(item)
            room[pack] -= cost
    assert first_fit([cost for cost, _ in items], [opening for _, opening in items], budget) == packs


@given(items, st.integers(1, 9))
def test_spread_is_the_plain_one(items, num_packs):
    packs, totals = [[] for _ in range(num_packs)], [0] * num_packs
    for item, (cost, opening) in enumerate(items):
        grown = [total + cost + (0 if pack else opening) for total, pack in zip(totals, packs, strict=True)]
        smallest = grown.index(min(grown))
        packs[smallest].append(item)
        totals[smallest] = grown[smallest]
    assert spread([cost for cost, _ in items], [opening for _, opening in items], num_packs) == packs


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 9))
def test_ranks_and_engines_are_assigned_as_by_the_plain_search(costs, number):
    totals, members = [0] * number, [[] for _ in range(number)]
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        rank = min(range(number), key=lambda r: (totals[r], len(members[r]), r))
        totals[rank] += costs[index]
        members[rank].append(index)
    assert assign_to_ranks(costs, number) == [sorted(indices) for indices in members]
    loads, shares = [0.0] * number, [[] for _ in range(number)]
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        engine = min(range(number), key=lambda e: loads[e])
        loads[engine] += costs[index]
        shares[engine].append(index)
    assert split_by_tokens(requests_of(costs), costs, number) == [sorted(indices) for indices in shares]


def requests_of(costs):
    return [RolloutRequest(f"p{i}", None, (1,), (), 1, 0, Sampling(1.0, 1.0, 0, 1)) for i in range(len(costs))]


class Counted(int):
    """An integer that counts how often it, or what is computed from it, is compared."""

    comparisons = 0

    def __add__(self, other):
        return Counted(int(self) + int(other))

    __radd__ = __add__

    def __sub__(self, other):
        return Counted(int(self) - int(other))

    def __rsub__(self, other):
        return Counted(int(other) - int(self))

    def __neg__(self):
        return Counted(-int(self))

    def _compared(name):
        def compare(self, other):
            Counted.comparisons += 1
            return getattr(int, name)(self, other)

        return compare

    __lt__, __le__, __gt__, __ge__, __eq__ = map(_compared, ("__lt__", "__le__", "__gt__", "__ge__", "__eq__"))
    __hash__ = int.__hash__


PACKING = {
    "first_fit": lambda costs: first_fit(costs, [0] * len(costs), 20),
    "spread": lambda costs: spread(costs, [0] * len(costs), len(costs) // 4),
    "ranks": lambda costs: assign_to_ranks(costs, len(costs) // 4),
    "engines": lambda costs: split_by_tokens(requests_of(costs), costs, len(costs) // 4),
}


@pytest.mark.parametrize("pack", PACKING.values(), ids=PACKING)
def test_the_comparisons_for_an_item_grow_with_the_logarithm(pack):
    """With every fourth item a new pack: 16 times the items take 16 times the comparisons and a few more."""

    def comparisons(number):
        Counted.comparisons = 0
        pack([Counted(7 + i * 7 % 5) for i in range(number)])
        return Counted.comparisons / number

    few, many = comparisons(100), comparisons(1600)
    assert few <= many < 2 * few
