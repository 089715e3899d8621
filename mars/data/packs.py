"""Splitting groups (a prompt and its responses) over packs, in which every prompt stands once. Costs in tokens."""

from __future__ import annotations

from collections.abc import Sequence


def split_responses(prompt_tokens: int, response_tokens: Sequence[int], budget: int) -> list[range]:
    """Places of the responses in each part of a group, in order; a part costs its prompt and its responses.

    A part is closed before it exceeds the budget. A response that does so alone gets a part of its own.

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


def first_fit(costs: Sequence[int], opening_costs: Sequence[int], budget: int) -> list[list[int]]:
    """Items of each pack: an item goes to the first pack that has room, else it opens one, at its opening cost besides.

    Costs in descending order that open at no cost need at most 11/9 OPT + 6/9 packs, OPT the fewest possible (Dosa
    2007). An item that exceeds the budget alone gets a pack of its own.

    Example: costs [6, 5, 4, 3], nothing to open, budget 10 -> [[0, 2], [1, 3]].
    """
    packs: list[list[int]] = []
    room: list[int] = []
    for item, (cost, opening) in enumerate(zip(costs, opening_costs, strict=True)):
        pack = next((i for i, left in enumerate(room) if cost <= left), None)
        if pack is None:
            packs.append([item])
            room.append(budget - opening - cost)
        else:
            packs[pack].append(item)
            room[pack] -= cost
    return packs
