"""Which node gets each bundle of a run: an exact search, made before any resource is requested from Ray."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from mars.cluster.layout import Layout, totals

Strategy = Literal["pack", "spread"]

_PER_UNIT = 10_000
"""Ray counts resources in steps of 1e-4."""


class Amount(NamedTuple):
    """CPUs and GPUs in Ray's steps of 1e-4, so that sums are exact."""

    cpus: int
    gpus: int

    @classmethod
    def of(cls, resources: Mapping[str, float]) -> Amount:
        """The CPUs and GPUs of Ray's resources."""
        return cls(*(math.floor(resources.get(kind, 0.0) * _PER_UNIT + 0.5) for kind in ("CPU", "GPU")))

    def times(self, number: int) -> Amount:
        return Amount(self.cpus * number, self.gpus * number)

    def minus(self, other: Amount) -> Amount:
        return Amount(self.cpus - other.cpus, self.gpus - other.gpus)

    def holds(self, other: Amount) -> bool:
        return self.cpus >= other.cpus and self.gpus >= other.gpus

    def number_of(self, other: Amount) -> int:
        """How many of `other` fit into this."""
        return min((have // want for have, want in zip(self, other, strict=True) if want > 0), default=sys.maxsize)

    def __str__(self) -> str:
        return f"{number(self.cpus)} CPU, {number(self.gpus)} GPU"


def number(steps: int) -> str:
    """Steps of 1e-4 as a decimal number: 5000 -> "0.5"."""
    return f"{steps / _PER_UNIT:g}"


@dataclass(frozen=True)
class Bundles:
    """Bundles of one size. indices: their numbers in the layout, in order.

    group: how many consecutive bundles should share a node, because their workers exchange the most data.
    """

    size: Amount
    indices: Sequence[int]
    group: int


def bundles_of(layout: Layout, ranks_per_group: int | None) -> tuple[Bundles, Bundles]:
    """The bundles with an engine, and the bundles that have only a rank.

    ranks_per_group: consecutive ranks that share one copy of the weights (`actor.fsdp_size`); None: all ranks.
    """
    ranks_per_group = ranks_per_group or max(len(layout.ranks), 1)
    sizes = [Amount.of(totals(workers)) for workers in layout.bundles]
    with_engine = list(layout.engine_bundles)
    alone = sorted(set(layout.rank_bundles) - set(with_engine))
    ranks_per_bundle = len(layout.ranks) // len(with_engine) if with_engine and not alone else 0
    group = ranks_per_group // ranks_per_bundle if ranks_per_bundle and ranks_per_group % ranks_per_bundle == 0 else 1
    return (
        Bundles(sizes[with_engine[0]] if with_engine else Amount(0, 0), with_engine, max(group, 1)),
        Bundles(sizes[alone[0]] if alone else Amount(0, 0), alone, ranks_per_group),
    )


def plan_nodes(engines: Bundles, ranks: Bundles, free: Sequence[Amount], strategy: Strategy) -> dict[int, int] | None:
    """Bundle -> index of its node; None if the bundles do not fit.

    free: what each node has, in the order in which nodes are filled. The lower an engine's number, the earlier its
    node; the same holds for ranks.

    pack: each node gets as many engines as possible, then as many ranks as possible. Groups of bundles are kept within
        nodes if all groups fit like that.
    spread: each node gets an even share of the engines. If not all bundles would fit then, the shares are as even as
        possible. Ranks fill what is left, in order. Groups are kept within nodes unless this spreads the engines less.

    Example: two engines and two ranks of 1 CPU each on two nodes of 2 CPUs. pack: the engines are on the first node and
    the ranks on the second; spread: each node has one engine and one rank.
    """
    found = [
        counts
        for together in (True, False)
        if (counts := _counts(_units(engines, together), _units(ranks, together), free, strategy)) is not None
    ]
    if not found:
        return None
    best = found[0] if strategy == "pack" else max(found, key=_evenness)
    return {
        bundle: node
        for kind, bundles in enumerate((engines, ranks))
        for bundle, node in zip(bundles.indices, _repeated([count[kind] for count in best]), strict=True)
    }


def plan_lost(engines: Bundles, ranks: Bundles, free: Sequence[Amount], strategy: Strategy) -> dict[int, int]:
    """As `plan_nodes`, for bundles that need another node. Places as many as fit.

    Ranks come first, because a trainer needs all its ranks. If not all ranks fit, no engine gets a place.
    """
    for number_of_engines in range(len(engines.indices), -1, -1):
        plan = plan_nodes(_first(engines, number_of_engines), ranks, free, strategy)
        if plan is not None:
            return plan
    plans = (
        plan_nodes(_first(engines, 0), _first(ranks, n), free, strategy) for n in range(len(ranks.indices), -1, -1)
    )
    return next(plan for plan in plans if plan is not None)


def _first(bundles: Bundles, number: int) -> Bundles:
    return Bundles(bundles.size, bundles.indices[:number], 1)


@dataclass(frozen=True)
class _Units:
    """`number` units with `bundles` bundles each. The bundles of a unit are placed on the same node."""

    size: Amount
    number: int
    bundles: int

    def capacity(self, free: Amount) -> int:
        return min(free.number_of(self.size), self.number) if self.number else 0


def _units(bundles: Bundles, together: bool) -> _Units:
    each = bundles.group if together and len(bundles.indices) % bundles.group == 0 else 1
    return _Units(bundles.size.times(each), len(bundles.indices) // each, each)


def _counts(engines: _Units, ranks: _Units, free: Sequence[Amount], strategy: Strategy) -> list[tuple[int, int]] | None:
    """For each node, how many engine bundles and rank bundles it gets; None if they do not fit."""
    room = _room(engines, ranks, free)
    if room[0].get(engines.number, -1) < ranks.number:
        return None
    left_engines, left_ranks = engines.number, ranks.number
    counts = []
    for node, has in enumerate(free):
        for taken in _preferred(strategy, left_engines, [engines.capacity(each) for each in free[node:]]):
            with_ranks = min(ranks.capacity(has.minus(engines.size.times(taken))), left_ranks)
            if room[node + 1].get(left_engines - taken, -1) >= left_ranks - with_ranks:
                break
        left_engines, left_ranks = left_engines - taken, left_ranks - with_ranks
        counts.append((taken * engines.bundles, with_ranks * ranks.bundles))
    return counts


def _room(engines: _Units, ranks: _Units, free: Sequence[Amount]) -> list[dict[int, int]]:
    """For each node: number of engines on this node and all later ones -> most ranks that fit there beside them.

    `_counts` needs no other numbers: all engines have one size and all ranks have one size, so the number of engines on
    a node decides how many ranks fit beside them.
    """
    room: list[dict[int, int]] = [{0: 0}]
    for has in reversed(free):
        beside = [ranks.capacity(has.minus(engines.size.times(x))) for x in range(engines.capacity(has) + 1)]
        here: dict[int, int] = {}
        for after, most in room[-1].items():
            for taken, fitting in enumerate(beside[: engines.number - after + 1]):
                here[after + taken] = max(here.get(after + taken, 0), most + fitting)
        room.append(here)
    return room[::-1]


def _preferred(strategy: Strategy, left: int, capacities: Sequence[int]) -> Iterator[int]:
    """How many engines the first node may take: all possible numbers, the best one first.

    left: how many engines have no node yet. capacities: for this node and each later one, how many engines fit on it.
    """
    choices = range(min(left, capacities[0]) + 1)
    share = left if strategy == "pack" else _even_share(left, capacities)
    yield from sorted(choices, key=lambda taken: (abs(taken - share), -taken))


def _even_share(left: int, capacities: Sequence[int]) -> int:
    """The smallest limit of engines per node that still places `left` engines, or as many of them as fit."""
    share = 0
    while sum(min(share, capacity) for capacity in capacities) < min(left, sum(capacities)):
        share += 1
    return share


def _evenness(counts: Sequence[tuple[int, int]]) -> tuple[int, int]:
    engines = [count[0] for count in counts]
    return sum(engine > 0 for engine in engines), -max(engines, default=0)


def _repeated(counts: Sequence[int]) -> list[int]:
    return [node for node, count in enumerate(counts) for _ in range(count)]
