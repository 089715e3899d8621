"""MMR1's variance-aware sampling: draw part of each batch by how much a prompt's rewards and responses vary.

recipe.sampler: recipe/mmr1_vas/functions.py:VarianceAware
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

import numpy as np
from diversity import distinct_ngrams, mean_edit_distance, self_bleu

from mars.algorithms.prompt_factors import right_share
from mars.hooks.contract import SamplerSetup
from mars.hooks.sampler_tools import AT_RANDOM, PromptTable, draw_without_replacement, generator
from mars.types import Prompt, PromptRollouts

NAME = "mmr1_vas"
NEEDS = AT_RANDOM


@dataclass(frozen=True)
class Settings:
    """learnability (share of right responses x share of wrong ones), distinct_3, self_bleu_123, edit_distance: their
    weights in a prompt's score. A number of weight 0 is not computed. momentum: share of the old score that stays when
    a prompt is observed again.

    ratio: share of a batch that is drawn by scores. probe_every: steps from one set of probes to the next; 0: none.
    probe_prompts: number of probes in a set; None: all prompts. right_from: accuracy from which a response is right.
    """

    learnability: float
    distinct_3: float
    self_bleu_123: float
    edit_distance: float
    momentum: float
    ratio: float
    probe_every: int
    probe_prompts: int | None
    right_from: float

    def __post_init__(self) -> None:
        if not (0 <= self.momentum < 1 and 0 <= self.ratio <= 1):
            raise ValueError("momentum must be from 0 to below 1, and ratio from 0 to 1")
        if self.probe_every < 0 or (self.probe_prompts is not None and self.probe_prompts < 1):
            raise ValueError("probe_every must be 0 or more, and probe_prompts 1 or more, or null")
        if not any((self.learnability, self.distinct_3, self.self_bleu_123, self.edit_distance)):
            raise ValueError("one of learnability, distinct_3, self_bleu_123 and edit_distance must not be 0")


def score(item: PromptRollouts, settings: Settings) -> float | None:
    """A prompt's score: the sum of the four numbers of `Settings` times their weights; None if no response is valid."""
    if (share := right_share(item, settings.right_from)) is None:
        return None
    texts = [rollout.completion.token_ids for rollout in item.multi.valid]
    numbers: dict[str, Callable[[], float]] = {
        "learnability": lambda: share * (1 - share),
        "distinct_3": lambda: distinct_ngrams(texts, 3),
        "self_bleu_123": lambda: self_bleu(texts),
        "edit_distance": lambda: mean_edit_distance(texts),
    }
    weights = {name: getattr(settings, name) for name in numbers}
    return sum(weight * numbers[name]() for name, weight in weights.items() if weight)


def draw_weights(scores: np.ndarray) -> np.ndarray:
    """Scores scaled to 0 .. 1, from the lowest to the highest known score. Prompts with an unknown score (NaN) get the
    mean weight of the others."""
    known = ~np.isnan(scores)
    if not known.any():
        return np.ones(len(scores))
    low, high = scores[known].min(), scores[known].max()
    weights = (scores - low) / (high - low + 1e-8)
    return np.where(known, weights, weights[known].mean())


def interleaved(drawn: Sequence[int], walked: Sequence[int]) -> list[int]:
    """One of each in turn, then the rest of the longer one.

    >>> interleaved([1, 2], [3, 4, 5])
    [1, 3, 2, 4, 5]
    """
    return [i for i in chain.from_iterable(zip_longest(drawn, walked)) if i is not None]


class VarianceAware:
    """Draws a part of each batch by moving averages of the prompts' `score`, and the rest in a random order of all
    prompts."""

    def __init__(self, setup: SamplerSetup, settings: Settings) -> None:
        self._setup, self._settings = setup, settings
        self._table = PromptTable(setup)
        self._order = generator(setup.seed, NAME).permutation(len(self._table)).tolist()
        self.restore({"scores": {}, "place": 0})

    def batch(self, round: int, left_out: frozenset[str]) -> list[Prompt]:
        size, readable = self._setup.prompts_per_step, self._table.readable(left_out)
        open_ = np.flatnonzero(readable)
        rng = generator(self._setup.seed, NAME, round)
        places = draw_without_replacement(draw_weights(self._scores[open_]), int(size * self._settings.ratio), rng)
        drawn = open_[places].tolist()
        walked, taken = [], set(drawn)
        for _ in range(len(self._order)):
            if len(drawn) + len(walked) == size:
                break
            i = self._order[self._place]
            self._place = (self._place + 1) % len(self._order)
            if readable[i] and i not in taken:
                walked.append(i)
        return [self._table.prompts[i] for i in interleaved(drawn, walked)]

    def probes(self, step: int) -> Sequence[Prompt]:
        """Every `probe_every` steps, from step 1: the next `probe_prompts` prompts of the random order, cyclically."""
        every, size = self._settings.probe_every, len(self._order)
        if every == 0 or (step - 1) % every:
            return ()
        count = min(self._settings.probe_prompts or size, size)
        first = (step - 1) // every * count
        return [self._table.prompts[self._order[(first + i) % size]] for i in range(count)]

    def observe(self, rollouts: Sequence[PromptRollouts], step: int) -> Mapping[str, float]:
        for item in rollouts:
            if (found := score(item, self._settings)) is None:
                continue
            place, momentum = self._table.place(item.prompt), self._settings.momentum
            before = self._scores[place]
            self._scores[place] = found if np.isnan(before) else momentum * before + (1 - momentum) * found
        known = ~np.isnan(self._scores)
        metrics = {"known": float(known.sum())}
        if known.any():
            metrics |= {"score": float(self._scores[known].mean()), "weight": float(draw_weights(self._scores).mean())}
        return metrics

    def state(self) -> Mapping[str, Any]:
        known = np.flatnonzero(~np.isnan(self._scores)).tolist()
        scores = {self._table.prompts[i].prompt_id: float(self._scores[i]) for i in known}
        return {"scores": scores, "place": self._place}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the state, without prompts that are no longer in the data."""
        self._scores = np.full(len(self._table), np.nan)
        self._place = state["place"] % max(len(self._order), 1)
        for place, found in zip(self._table.places(state["scores"]), state["scores"].values(), strict=True):
            if place is not None:
                self._scores[place] = found
