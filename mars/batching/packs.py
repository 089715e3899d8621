"""Packing prompts and their responses into forwards. A pack holds each prompt once; all costs are in tokens.

An item is a prompt with some or all of its responses. Its opening cost is added to the cost of a pack that begins with
it: the tokens of the filler that a pack without images may need (mars/batching/plan.py), and 0 if the item has images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import Any, TypeVar, cast

Rows = TypeVar("Rows", bound=Sequence[Any])


def split_responses(prompt_tokens: int, response_tokens: Sequence[int], budget: int) -> list[range]:
    """Split a prompt's responses, in order, into parts that each fit the budget together with the prompt.

    Returns the positions of the responses in each part. If the prompt and one response already exceed
    the budget, that response is a part of its own.

    Example: 10 prompt tokens, responses of 3, 3 and 4, budget 17 -> [range(0, 2), range(2, 3)].
    """
    parts: list[range] = []
    cost = 0
    for place, tokens in enumerate(response_tokens):
        if parts and cost + tokens <= budget:
            parts[-1] = range(parts[-1].start, place + 1)
            cost += tokens
        else:
            parts.append(range(place, place + 1))
            cost = prompt_tokens + tokens
    return parts


def at_least(number: int, parts: Sequence[Rows], cost: Callable[[Rows], int]) -> list[Rows]:
    """Halve the most expensive part that has several rows, until there are `number` parts or every part has one row.

    Example: 3 parts from ["abc", "d"] at the cost of their length -> ["a", "bc", "d"].
    """
    found = list(parts)
    while len(found) < number:
        largest = max(range(len(found)), key=lambda i: (len(found[i]) > 1, cost(found[i])))
        rows = found[largest]
        if len(rows) == 1:
            break
        halves = rows[: len(rows) // 2], rows[len(rows) // 2 :]
        found[largest : largest + 1] = cast(tuple[Rows, Rows], halves)  # slicing a sequence gives the same type
    return found


def first_fit(costs: Sequence[int], opening_costs: Sequence[int], budget: int) -> list[list[int]]:
    """First-fit bin packing: each item goes to the first pack with room for its cost, or opens a new one.

    An item that exceeds the budget alone gets a pack of its own. With descending costs and no opening costs at most
    11/9 OPT + 6/9 packs are used, where OPT is the fewest possible (Dosa 2007).

    Example: costs [6, 5, 4, 3], opening costs 0, budget 10 -> [[0, 2], [1, 3]].
    """
    packs: list[list[int]] = []
    room = _FirstWithRoom(len(costs))
    for item, (cost, opening) in enumerate(zip(costs, opening_costs, strict=True)):
        pack = room.first(cost)
        if pack is None:
            room.set(len(packs), budget - opening - cost)
            packs.append([item])
        else:
            packs[pack].append(item)
            room.set(pack, room.of(pack) - cost)
    return packs


class _FirstWithRoom:
    """The room left in each of `size` packs; finds the first pack with enough room in log(size) comparisons.

    A binary tree in a list: node i has the children 2 i and 2 i + 1 and the larger of their rooms; leaves are packs.
    A pack that is not open has room -1.
    """

    def __init__(self, size: int) -> None:
        self._leaves = 1 << max(size - 1, 0).bit_length()
        self._most = [-1] * (2 * self._leaves)

    def of(self, pack: int) -> int:
        return self._most[self._leaves + pack]

    def set(self, pack: int, room: int) -> None:
        node = self._leaves + pack
        self._most[node] = room
        while node > 1:
            node //= 2
            self._most[node] = max(self._most[2 * node], self._most[2 * node + 1])

    def first(self, cost: int) -> int | None:
        if self._most[1] < cost:
            return None
        node = 1
        while node < self._leaves:
            node = 2 * node + (self._most[2 * node] < cost)
        return node - self._leaves


def spread(costs: Sequence[int], opening_costs: Sequence[int], num_packs: int) -> list[list[int]]:
    """Distribute items over `num_packs` packs of similar cost.

    Each item goes to the pack whose cost is lowest after the item is added.

    With descending costs and no opening costs the largest pack is at most 4/3 of the best possible (Graham 1969).

    Example: costs [6, 5, 4, 3], opening costs 0, 2 packs -> [[0, 3], [1, 2]].
    """
    packs: list[list[int]] = [[] for _ in range(num_packs)]
    opened: list[tuple[int, int]] = []  # a heap of (cost, number) of the packs that have items
    num_opened = 0  # packs are opened in order
    for item, (cost, opening) in enumerate(zip(costs, opening_costs, strict=True)):
        if num_opened < num_packs and (not opened or (opening, num_opened) < opened[0]):
            total, pack = opening, num_opened
            num_opened += 1
        else:
            total, pack = heappop(opened)
        heappush(opened, (total + cost, pack))
        packs[pack].append(item)
    return packs


def packs_in_step(ranks: Sequence[tuple[Sequence[int], Sequence[int]]], budget: int) -> list[list[list[int]]]:
    """The packs of each rank. ranks: for each rank, the costs and the opening costs of its items.

    In every forward all ranks wait for the rank with the largest pack. So each rank spreads its items
    over as many packs as the rank that needs the most, with similar sizes. If a pack of several items would
    then exceed the budget, the rank takes the packs of `first_fit` instead. The largest pack is the first.

    Example: costs [9, 8, 2] and [7, 2, 1], opening costs 0, budget 10 -> [[[1, 2], [0]], [[0], [1, 2]]]: packs of 10
    and 9 tokens on the first rank, 7 and 3 on the second. The ranks wait for 10 + 9 tokens; a single pack of 10 on the
    second rank would need more memory and be no faster.
    """
    fewest = [first_fit(costs, opening, budget) for costs, opening in ranks]
    chosen = []
    for (costs, opening), packs in zip(ranks, fewest, strict=True):

        def size(pack: list[int], costs: Sequence[int] = costs, opening: Sequence[int] = opening) -> int:
            return opening[pack[0]] + sum(costs[item] for item in pack)

        even = [pack for pack in spread(costs, opening, max(map(len, fewest))) if pack]
        fits = all(len(pack) == 1 or size(pack) <= budget for pack in even)
        chosen.append(sorted(even if fits else packs, key=size, reverse=True))
    return chosen
