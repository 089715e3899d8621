"""Splitting work over ranks and over forward passes. Deterministic, on costs in tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mars.types import MicroBatch, TrainPrompt, UpdatePlan

Row = tuple[int, int]


def assign_to_ranks(costs: Sequence[int], num_ranks: int) -> list[list[int]]:
    """Indices of the items each rank takes, in ascending order, so that the ranks' total costs are near equal.

    Longest processing time first (Graham 1969): the dearest item left goes to the rank with the least work. The
    largest total is at most 4/3 - 1/(3 num_ranks) of the best possible one. Ties go to the lower index and rank.
    With fewer items than ranks some ranks get an empty list.

    Example: costs [5, 4, 3, 3, 3] on 2 ranks -> [[0, 3], [1, 2, 4]].
    """
    if num_ranks < 1:
        raise ValueError(f"num_ranks must be 1 or more; got {num_ranks}")
    totals = [0] * num_ranks
    members: list[list[int]] = [[] for _ in range(num_ranks)]
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        rank = min(range(num_ranks), key=lambda r: (totals[r], len(members[r]), r))
        totals[rank] += costs[index]
        members[rank].append(index)
    return [sorted(indices) for indices in members]


def micro_batches(costs: Sequence[int], tokens_per_forward: int, num_fillers: int = 0) -> list[list[int]]:
    """Indices of the items of each forward pass, kept in order.

    costs: tokens of each item. num_fillers: rows that every micro-batch holds besides, no longer than its items.
    A micro-batch is padded to its longest item, so it costs (len(items) + num_fillers) * max(costs) tokens and is
    closed before that exceeds tokens_per_forward. An item that is alone over the budget gets a micro-batch of its own.

    Example: costs [3, 3, 8, 2] with 10 tokens and no fillers -> [[0, 1], [2], [3]].
    """
    batches: list[list[int]] = []
    longest = 0
    for index, cost in enumerate(costs):
        longest = max(longest, cost)
        if batches and (len(batches[-1]) + 1 + num_fillers) * longest <= tokens_per_forward:
            batches[-1].append(index)
        else:
            batches.append([index])
            longest = cost
    return batches


def plan_updates(
    prompts: Sequence[TrainPrompt], prompts_per_update: int, num_ranks: int, tokens_per_forward: int
) -> tuple[UpdatePlan, ...]:
    """Split a batch into optimizer steps of `prompts_per_update` prompts in the given order; the last may be smaller.

    Whole prompts go to one rank; a prompt's responses stay neighbours. Fillers are added so that every rank runs
    equally many forwards (FSDP's collectives wait for all) and no forward is without an image where another has one.
    A filler is the shortest row that shows an image.

    Example: 3 prompts of one response each, 2 per update, 1 rank -> two updates, with the rows (0, 0), (1, 0) and
    (2, 0).
    """
    indices = range(len(prompts))
    return tuple(
        _plan_update(prompts, indices[first : first + prompts_per_update], num_ranks, tokens_per_forward)
        for first in range(0, len(prompts), prompts_per_update)
    )


def _plan_update(
    prompts: Sequence[TrainPrompt], indices: Sequence[int], num_ranks: int, tokens_per_forward: int
) -> UpdatePlan:
    def cost(row: Row) -> int:
        prompt = prompts[row[0]]
        return prompt.num_prompt_tokens + len(prompt.responses[row[1]].token_ids)

    def shows_image(row: Row) -> bool:
        return bool(prompts[row[0]].images)

    prompt_rows = [[(index, k) for k in range(len(prompts[index].responses))] for index in indices]
    # Neighbours of like length pad little.
    prompt_rows.sort(key=lambda rows: -max(map(cost, rows)))
    assignment = assign_to_ranks([sum(map(cost, rows)) for rows in prompt_rows], num_ranks)
    all_rows = [row for rows in prompt_rows for row in rows]
    with_image = list(filter(shows_image, all_rows))
    filler = min(with_image or all_rows, key=cost)
    ranks = []
    for members in assignment:
        rows = [row for member in members for row in prompt_rows[member]]
        seeing = [row for row in rows if shows_image(row)]
        blind = [row for row in rows if not shows_image(row)]
        ranks.append(
            [
                *_forwards(seeing, (), cost, tokens_per_forward),
                *_forwards(blind, (filler,) if with_image else (), cost, tokens_per_forward),
            ]
        )
    longest = max(map(len, ranks))
    empty = MicroBatch(rows=(filler,), num_fillers=1)
    return UpdatePlan(ranks=tuple((*batches, *[empty] * (longest - len(batches))) for batches in ranks))


def _forwards(
    rows: Sequence[Row], fillers: tuple[Row, ...], cost: Callable[[Row], int], tokens_per_forward: int
) -> list[MicroBatch]:
    """The rows' micro-batches, each with all the fillers, which count against the budget as well."""
    costs = [max(map(cost, (row, *fillers))) for row in rows]
    batches = micro_batches(costs, tokens_per_forward, len(fillers))
    return [MicroBatch((*(rows[i] for i in batch), *fillers), len(fillers)) for batch in batches]
