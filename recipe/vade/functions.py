"""VADE: draw prompts that the policy probably gets right about half of the time, judged by their responses so far.

recipe.sampler: recipe/vade/functions.py:Vade
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mars.algorithms.prompt_factors import right_share
from mars.errors import ConfigError
from mars.hooks.contract import SamplerSetup
from mars.hooks.sampler_tools import AT_RANDOM, PromptTable, generator
from mars.types import Prompt, PromptRollouts

NAME = "vade"
NEEDS = AT_RANDOM


@dataclass(frozen=True)
class Settings:
    """prior_right, prior_wrong: the Beta distribution of an unknown prompt.

    decay: when a prompt is sampled again, its earlier counts keep this share of their distance to the prior.
    slow_decay: in each step, the counts of every prompt keep this share of that distance.
    rule: how a round chooses. For each prompt, a rate of right responses is drawn from the prompt's Beta distribution.
    "topk" takes the prompts with the rates closest to `target`; "threshold" takes those with rates from `lower` to
    `upper`, then those closest to this range.
    candidates: number of random prompts that a round considers; None: all.
    right_from: accuracy from which a response is right.
    """

    prior_right: float
    prior_wrong: float
    decay: float
    slow_decay: float
    rule: Literal["topk", "threshold"]
    target: float
    lower: float
    upper: float
    candidates: int | None
    right_from: float

    def __post_init__(self) -> None:
        if min(self.prior_right, self.prior_wrong) <= 0:
            raise ValueError("prior_right and prior_wrong must be above 0")
        for name in ("decay", "slow_decay", "target", "lower", "upper"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1")
        if self.lower > self.upper:
            raise ValueError("lower must not be above upper")


def best(rates: np.ndarray, count: int, settings: Settings) -> np.ndarray:
    """Indices of the `count` rates closest to `target` ("topk"), or to `lower` ... `upper` ("threshold").

    The closest come first. Equally close rates keep their order in `rates`.
    """
    if settings.rule == "topk":
        distance = (rates - settings.target) ** 2
    else:
        distance = np.maximum(0.0, np.maximum(settings.lower - rates, rates - settings.upper))
    return np.argsort(distance, kind="stable")[:count]


def kept(counts: np.ndarray, prior: np.ndarray, decay: float) -> np.ndarray:
    """Counts that forget: decay * counts + (1 - decay) * prior."""
    return decay * counts + (1 - decay) * prior


class Vade:
    """Keeps for each prompt the counts (a, b) of a Beta distribution of its share of right responses."""

    def __init__(self, setup: SamplerSetup, settings: Settings) -> None:
        self._setup, self._settings = setup, settings
        self._table = PromptTable(setup)
        if settings.candidates is not None and settings.candidates < setup.prompts_per_step:
            raise ConfigError(
                f"recipe.settings.vade.candidates: fewer than a step has prompts; got {settings.candidates}; "
                f"give {setup.prompts_per_step} (data.prompts_per_step) or more"
            )
        self._prior = np.array([settings.prior_right, settings.prior_wrong])
        self.restore({"counts": {}})

    def batch(self, round: int, left_out: frozenset[str]) -> list[Prompt]:
        rng = generator(self._setup.seed, NAME, round)
        order = rng.permutation(len(self._table))
        rates = rng.beta(self._counts[:, 0], self._counts[:, 1])
        candidates = order[self._table.readable(left_out)[order]][: self._settings.candidates]
        chosen = best(rates[candidates], self._setup.prompts_per_step, self._settings)
        # In the random order of the candidates, so that each update of the step has prompts of every rate.
        return [self._table.prompts[i] for i in candidates[np.sort(chosen)]]

    def probes(self, step: int) -> Sequence[Prompt]:
        return ()

    def observe(self, rollouts: Sequence[PromptRollouts], step: int) -> Mapping[str, float]:
        self._counts = kept(self._counts, self._prior, self._settings.slow_decay)
        errors = []
        for item in rollouts:
            if (share := right_share(item, self._settings.right_from)) is None:
                continue
            place, size = self._table.place(item.prompt), len(item.multi.valid)
            counts = self._counts[place]
            if self._known[place]:
                errors.append(abs(counts[0] / counts.sum() - share))
            seen = size * np.array([share, 1 - share])
            self._counts[place] = kept(counts, self._prior, self._settings.decay) + seen
            self._known[place] = True
        metrics = {"known": float(self._known.sum())}
        if self._known.any():
            known = self._counts[self._known]
            metrics["rate"] = float((known[:, 0] / known.sum(axis=1)).mean())
        return metrics | ({"rate_error": float(np.mean(errors))} if errors else {})

    def state(self) -> Mapping[str, Any]:
        """The counts of the prompts that have been sampled."""
        known = np.flatnonzero(self._known)
        ids = (self._table.prompts[i].prompt_id for i in known)
        return {"counts": dict(zip(ids, self._counts[known].tolist(), strict=True))}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the state, without prompts that are no longer in the data."""
        self._counts = np.tile(self._prior, (len(self._table), 1))
        self._known = np.zeros(len(self._table), dtype=bool)
        for place, counts in zip(self._table.places(state["counts"]), state["counts"].values(), strict=True):
            if place is not None:
                self._counts[place], self._known[place] = counts, True
