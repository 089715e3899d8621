"""Splitting a batch over optimizer steps, ranks and forwards. Deterministic; all costs are in tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from heapq import heapreplace
from itertools import accumulate, pairwise

from mars.batching.packs import at_least, packs_in_step, split_responses
from mars.train_types import MicroBatch, Packing, TrainPrompt, UpdatePlan

Row = tuple[int, int]


def assign_to_ranks(costs: Sequence[int], num_ranks: int) -> list[list[int]]:
    """Indices of the items each rank takes, in ascending order, so that the ranks' total costs are nearly equal.

    Longest processing time first (Graham 1969): the most expensive remaining item goes to the least loaded rank. The
    largest total is at most 4/3 - 1/(3 num_ranks) of the best possible one.

    Example: costs [5, 4, 3, 3, 3] on 2 ranks -> [[0, 3], [1, 2, 4]].
    """
    if num_ranks < 1:
        raise ValueError(f"num_ranks must be 1 or more; got {num_ranks}")
    members: list[list[int]] = [[] for _ in range(num_ranks)]
    loads = [(0, 0, rank) for rank in range(num_ranks)]  # a heap of (cost, number of items, rank)
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        total, number, rank = loads[0]
        heapreplace(loads, (total + costs[index], number + 1, rank))
        members[rank].append(index)
    return [sorted(indices) for indices in members]


def micro_batches(costs: Sequence[int], tokens_per_forward: int, num_fillers: int = 0) -> list[list[int]]:
    """Indices of the items of each forward pass, kept in order.

    costs: tokens of each item. num_fillers: number of further rows in every micro-batch. No item may cost
    less than such a row.
    A micro-batch is padded to its longest item, so it costs (len(items) + num_fillers) * max(costs) tokens. It is
    closed before this cost exceeds tokens_per_forward. An item that exceeds the budget alone gets a micro-batch of its
    own.

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
    prompts: Sequence[TrainPrompt],
    prompts_per_update: int,
    num_ranks: int,
    tokens_per_forward: int,
    packing: Packing,
    by_length: bool = True,
    sizes: Sequence[int] | None = None,
) -> tuple[UpdatePlan, ...]:
    """Split a batch into optimizer steps of `prompts_per_update` prompts in the given order; the last may be smaller.

    A prompt's responses stay together on one rank. Only packs may split them: if the prompt with all its responses
    exceeds `tokens_per_forward`, or if there are fewer prompts than ranks.

    FSDP's collectives need every rank to run the same modules equally often. So fillers are added until all ranks have
    equally many forwards. If any row of the update shows an image, every forward without an image gets a filler that
    shows one. A filler is the shortest row that shows an image, or the shortest row if none does.

    packing: what a forward holds, and so what it costs. "padded": rows of a prompt and one response, padded to the
        longest. "shared_prefix": each prompt once, then its responses, without padding.

    sizes: split `prompts` into runs of these lengths; each run counts as one prompt and stays in one update. None: each
        prompt is a run by itself.
    by_length: whether padded rows are sorted by length.

    Example: 3 prompts of one response each, 2 per update, 1 rank -> two updates: rows (0, 0) and (1, 0), then row
    (2, 0).
    """
    plan_update = _plan_packs if packing == "shared_prefix" else partial(_plan_rows, by_length=by_length)
    ends = [0, *accumulate([1] * len(prompts) if sizes is None else sizes)]
    bounds = [*ends[:-1:prompts_per_update], ends[-1]]
    return tuple(
        plan_update(prompts, range(first, end), num_ranks, tokens_per_forward) for first, end in pairwise(bounds)
    )


def _plan_rows(
    prompts: Sequence[TrainPrompt], indices: Sequence[int], num_ranks: int, tokens_per_forward: int, by_length: bool
) -> UpdatePlan:
    def cost(row: Row) -> int:
        return _cost(prompts, (row,))

    prompt_rows = [_rows(prompts, index) for index in indices]
    if by_length:
        prompt_rows.sort(key=lambda rows: -max(map(cost, rows)))
    assignment = assign_to_ranks([sum(map(cost, rows)) for rows in prompt_rows], num_ranks)
    filler, is_needed = _filler(prompts, indices)
    ranks = []
    for members in assignment:
        rows = [row for member in members for row in prompt_rows[member]]
        seeing = [row for row in rows if prompts[row[0]].images]
        blind = [row for row in rows if not prompts[row[0]].images]
        ranks.append(
            [
                *_forwards(seeing, (), cost, tokens_per_forward),
                *_forwards(blind, (filler,) if is_needed else (), cost, tokens_per_forward),
            ]
        )
    return _equally_many(ranks, filler)


def _forwards(
    rows: Sequence[Row], fillers: tuple[Row, ...], cost: Callable[[Row], int], tokens_per_forward: int
) -> list[MicroBatch]:
    """The rows' micro-batches, each with all fillers, which count against `tokens_per_forward` too."""
    costs = [max(map(cost, (row, *fillers))) for row in rows]
    batches = micro_batches(costs, tokens_per_forward, len(fillers))
    return [MicroBatch((*(rows[i] for i in batch), *fillers), len(fillers)) for batch in batches]


def _plan_packs(
    prompts: Sequence[TrainPrompt], indices: Sequence[int], num_ranks: int, tokens_per_forward: int
) -> UpdatePlan:
    """The plan with shared-prefix packs. Prompts with images are placed first; text-only prompts fill the rest."""
    filler, is_needed = _filler(prompts, indices)

    def opening_cost(index: int) -> int:
        return _cost(prompts, (filler,)) if is_needed and not prompts[index].images else 0

    parts = []
    for index in indices:
        lengths = [len(response.token_ids) for response in prompts[index].responses]
        room = tokens_per_forward - opening_cost(index)
        split = split_responses(prompts[index].num_prompt_tokens, lengths, room)
        parts += [tuple((index, k) for k in places) for places in split]
    parts = at_least(num_ranks, parts, lambda part: _cost(prompts, part))
    assignment = assign_to_ranks([_cost(prompts, part) for part in parts], num_ranks)
    parts_of_rank = [[parts[member] for member in members] for members in assignment]
    for mine in parts_of_rank:
        mine.sort(key=lambda part: (not prompts[part[0][0]].images, -_cost(prompts, part)))
    costs = [
        ([_cost(prompts, part) for part in mine], [opening_cost(part[0][0]) for part in mine]) for mine in parts_of_rank
    ]
    ranks = [
        [_pack(prompts, [mine[i] for i in pack], filler, is_needed) for pack in packs]
        for mine, packs in zip(parts_of_rank, packs_in_step(costs, tokens_per_forward), strict=True)
    ]
    return _equally_many(ranks, filler)


def _pack(prompts: Sequence[TrainPrompt], parts: Sequence[tuple[Row, ...]], filler: Row, is_needed: bool) -> MicroBatch:
    rows = tuple(row for part in parts for row in part)
    if is_needed and not any(prompts[index].images for index, _ in rows):
        return MicroBatch((*rows, filler), 1)
    return MicroBatch(rows)


def _rows(prompts: Sequence[TrainPrompt], index: int) -> list[Row]:
    return [(index, k) for k in range(len(prompts[index].responses))]


def _cost(prompts: Sequence[TrainPrompt], rows: Sequence[Row]) -> int:
    """Number of tokens of a prompt followed by the responses of `rows`, which all belong to this prompt."""
    return prompts[rows[0][0]].num_prompt_tokens + sum(len(prompts[i].responses[k].token_ids) for i, k in rows)


def _filler(prompts: Sequence[TrainPrompt], indices: Sequence[int]) -> tuple[Row, bool]:
    """The shortest row that shows an image, else the shortest row; and whether forwards without image need this row."""
    rows = [row for index in indices for row in _rows(prompts, index)]
    with_image = [row for row in rows if prompts[row[0]].images]
    return min(with_image or rows, key=lambda row: _cost(prompts, (row,))), bool(with_image)


def _equally_many(ranks: Sequence[Sequence[MicroBatch]], filler: Row) -> UpdatePlan:
    longest = max(map(len, ranks))
    empty = MicroBatch(rows=(filler,), num_fillers=1)
    return UpdatePlan(ranks=tuple((*batches, *[empty] * (longest - len(batches))) for batches in ranks))
