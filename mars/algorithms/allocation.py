"""Where the second half of a round's multi rollouts goes (`anchor.allocation`).

A round of P prompts with G multi rollouts each is sampled in two engine calls. The first call samples ceil(G / 2) multi
rollouts of each prompt and all anchors. The second call samples the other P * floor(G / 2) multi rollouts. These go to
the target prompts, up to a limit (`second_half` says where the rest goes). `anchor.allocation` says what a target is:

    conflict   an anchor is right, and no multi rollout of the first half is
    unsolved   no multi rollout of the first half is right; anchors do not matter (the control of `conflict`)

docs/method.md says what the allocation means for the estimate of the gradient.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from hashlib import blake2b
from statistics import fmean
from typing import Literal

from mars.algorithms.penalties import KL_PART
from mars.algorithms.prompt_factors import RIGHT_FROM, is_in_conflict, is_right, is_unsolved
from mars.types import PromptRollouts

MOST = 4  # a prompt gets at most this many times G multi rollouts


def is_target(item: PromptRollouts, allocation: Literal["conflict", "unsolved"]) -> bool:
    """Whether the prompt is a target of the second half. item: the rollouts of the first half, and the anchors.

    A response that could not be scored is not right.
    """
    return (is_in_conflict if allocation == "conflict" else is_unsolved)(item, RIGHT_FROM)


def second_half(targets: Sequence[bool], order: Sequence[int], first: int, samples: int) -> list[int]:
    """How many more multi rollouts each prompt gets: `len(targets) * (samples - first)` in all.

    targets: for each prompt, whether it is a target. order: a permutation of the prompts. If rollouts cannot be shared
    evenly, the prompts that come first in `order` get one more. samples: G. first: multi rollouts that each prompt has
    already, at most G.

    The targets share the rollouts evenly, but none gets more than `MOST` * G in all. The other prompts share what is
    left, and have at most G in the end. Without targets all prompts share evenly: each has G in the end, as with
    `anchor.allocation=even`.

    Example: 4 prompts with 2 of G = 4 rollouts each, so 8 more. Targets 1 and 3 get [0, 4, 0, 4], and a single target 2
    gets [0, 0, 8, 0]. With 8 prompts and 16 more, a single target gets 14, so that it has
    16 = `MOST` * G in all, and two other prompts get one each.
    """
    counts, budget = [0] * len(targets), len(targets) * (samples - first)
    chosen = [i for i in order if targets[i]] or list(order)
    given = min(budget, len(chosen) * (MOST * samples - first))
    _share(given, chosen, counts)
    _share(budget - given, [i for i in order if not targets[i]], counts)
    return counts


def _share(amount: int, among: Sequence[int], counts: list[int]) -> None:
    """Add equal parts of `amount` to the counts of `among`. The remainder goes to the first ones, one each."""
    for number, i in enumerate(among):
        counts[i] += amount // len(among) + (number < amount % len(among))


def seeded_order(prompt_ids: Sequence[str], seed: int, step: int) -> list[int]:
    """A permutation of the prompts: the order of their hashes of (seed, step, prompt id)."""
    keys = [blake2b(repr((seed, step, "allocation", name)).encode(), digest_size=16).digest() for name in prompt_ids]
    return sorted(range(len(keys)), key=lambda i: keys[i])


def allocation_metrics(prompts: Sequence[PromptRollouts], targets: Collection[str], first: int) -> dict[str, float]:
    """mars/allocation/frac_target|max_samples|rescued|first_score of the prompts of a step; {} without prompts.

    targets: ids of the target prompts. first: how many multi rollouts each prompt has in the first half.
    `rescued` is the share of the targets with a right response in the second half; missing without targets.
    `first_score` is the mean score of the first half, where all prompts have equally many rollouts. The
    scores are those of critic/score/mean, before a KL term.
    """
    if not prompts:
        return {}
    chosen = [item for item in prompts if item.prompt.prompt_id in targets]
    metrics = {
        "mars/allocation/frac_target": len(chosen) / len(prompts),
        "mars/allocation/max_samples": float(max(len(item.multi.rollouts) for item in prompts)),
    }
    if chosen:
        rescued = [any(is_right(rollout, RIGHT_FROM) for rollout in item.multi.rollouts[first:]) for item in chosen]
        metrics["mars/allocation/rescued"] = sum(rescued) / len(chosen)
    halves = (rollout for item in prompts for rollout in item.multi.rollouts[:first] if rollout.valid)
    scores = [rollout.reward.score - rollout.reward.parts.get(KL_PART, 0.0) for rollout in halves]
    return metrics | ({"mars/allocation/first_score": fmean(scores)} if scores else {})
