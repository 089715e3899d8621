"""Has the trainer compute the numbers per response (`Signal`) that shapings ask for, before these are called."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from mars.actor.trainer import PolicyTrainer
from mars.hooks.contract import Signal
from mars.hooks.signals import NO_SIGNALS, Asked, Decode, SignalValues, TokenSpans, shaped_groups
from mars.train_types import TrainBatch
from mars.types import PromptRollouts, RolloutGroup

GroupsOf = Callable[[PromptRollouts], Sequence[RolloutGroup]]


class ScoringBatch(Protocol):
    """Makes a batch of the groups that have a valid rollout, in order.

    groups_of: which groups of a prompt to take; without it, all but those of role "signal".
    """

    def __call__(self, rollouts: Sequence[PromptRollouts], groups_of: GroupsOf = ..., /) -> TrainBatch: ...


def measured(
    asked: Asked,
    rollouts: Sequence[PromptRollouts],
    step: int,
    scoring_batch: ScoringBatch,
    trainer: PolicyTrainer,
    decode: Decode,
    stage: Callable[[], AbstractContextManager[Any]],
) -> SignalValues:
    """For each `Signal` of `asked`, call the trainer once. It computes the signal for the valid rollouts of the groups
    for which `asked` wants it.

    decode: response ids to text. stage: a context that is entered if there is something to compute.
    """
    if not asked or not rollouts:
        return NO_SIGNALS
    values: dict[Signal, dict[Any, Sequence[float]]] = {}
    unreadable: dict[str, str] = {}
    find = TokenSpans(decode)
    with stage():
        for signal, on in asked.items():
            batch = replace(scoring_batch(rollouts, partial(shaped_groups, on=on)), step=step)
            groups = [group for item in rollouts for group in shaped_groups(item, on) if group.valid]
            spans = None
            if signal.tag is not None:
                spans = [[find.of(r.text, r.completion.token_ids, signal.tag) for r in g.valid] for g in groups]
            scores = trainer.score_responses(batch, signal.spec, spans)
            found = values[signal] = {}
            for group, given in zip(groups, scores.values, strict=True):
                number = iter(given)
                found[group.request.key] = [next(number) if r.valid else math.nan for r in group.rollouts]
            unreadable |= scores.unreadable
    return SignalValues(values, unreadable)
