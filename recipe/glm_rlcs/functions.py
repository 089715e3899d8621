"""RLCS of GLM-4.1V: favour prompts of medium difficulty, and draw larger rounds if many prompts only have advantages 0.

recipe.sampler: recipe/glm_rlcs/functions.py:CurriculumSampling
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mars.algorithms.advantages import AdvantageSettings
from mars.algorithms.pooled_rewards import PooledRewards
from mars.algorithms.prompt_factors import right_share
from mars.algorithms.selection import has_signal
from mars.errors import ConfigError
from mars.hooks.contract import SamplerSetup
from mars.hooks.sampler_tools import AT_RANDOM, PromptTable, draw_without_replacement, generator
from mars.types import Prompt, PromptRollouts

NAME = "glm_rlcs"
NEEDS = {"algorithm.selection": "nonzero_advantage", **AT_RANDOM}
# Whether an advantage is 0 does not depend on how advantages are normalised.
_PLAIN = AdvantageSettings("group_norm", False, "mean_and_std", True, 0.0, 0.0)


@dataclass(frozen=True)
class Settings:
    """buckets: of equal width, by a prompt's share of right responses. unseen: the share assumed for an unknown prompt.

    pass_rate: the field of `extra_info` with the share from before training; None if rows have none.
    rate_decay: of the moving average of a prompt's share. invalid_decay: of the moving average of `invalid_share`.
    max_factor: largest number of prompts in a round, in units of data.prompts_per_step.
    right_from: accuracy from which a response is right.
    """

    buckets: int
    unseen: float
    pass_rate: str | None
    rate_decay: float
    invalid_decay: float
    max_factor: float
    right_from: float

    def __post_init__(self) -> None:
        if self.buckets < 1:
            raise ValueError("buckets must be 1 or more")
        if self.max_factor < 1:
            raise ValueError("max_factor must be 1 or more")
        if not 0 <= self.unseen <= 1:
            raise ValueError("unseen must be from 0 to 1")
        if not (0 <= self.rate_decay < 1 and 0 <= self.invalid_decay < 1):
            raise ValueError("rate_decay and invalid_decay must be from 0 to below 1")


def bucket_of(rates: np.ndarray, buckets: int) -> np.ndarray:
    """int [N]: 0 for the most difficult bucket. A rate of 1 is in the last bucket."""
    return np.minimum((rates * buckets).astype(int), buckets - 1)


def draw_weights(rates: np.ndarray, buckets: int) -> np.ndarray:
    """The weight of each prompt: equal within a bucket. The weights of a bucket sum to c * (1 - c); c is its centre."""
    bucket = bucket_of(rates, buckets)
    centre = (bucket + 0.5) / buckets
    return centre * (1 - centre) / np.bincount(bucket, minlength=buckets)[bucket]


def round_size(prompts_per_step: int, invalid: float, max_factor: float) -> int:
    """prompts_per_step / (1 - invalid), at most max_factor * prompts_per_step, rounded up."""
    factor = max_factor if invalid >= 1 else min(1 / (1 - invalid), max_factor)
    return math.ceil(prompts_per_step * factor - 1e-9)  # no prompt more by rounding


def invalid_share(rollouts: Sequence[PromptRollouts]) -> float:
    """Share of the prompts whose multi responses all have the advantage 0.

    Advantages are computed from the scores; the pool includes the anchors' scores.
    """
    rewards = PooledRewards.of_rollouts(rollouts)
    signal = has_signal(rewards.advantages(_PLAIN), rewards.prompt_index)
    return 1 - float(signal.double().mean())


class CurriculumSampling:
    """Draws prompts by a moving average of each prompt's share of right responses."""

    def __init__(self, setup: SamplerSetup, settings: Settings) -> None:
        self._setup, self._settings = setup, settings
        self._table = PromptTable(setup)
        self._first = [offline_rate(prompt, settings) for prompt in self._table.prompts]
        self.restore({"rates": {}, "invalid": None})

    def batch(self, round: int, left_out: frozenset[str]) -> list[Prompt]:
        size = round_size(self._setup.prompts_per_step, self._invalid or 0.0, self._settings.max_factor)
        open_ = np.flatnonzero(self._table.readable(left_out))
        weights = draw_weights(self._rates[open_], self._settings.buckets)
        drawn = draw_without_replacement(weights, size, generator(self._setup.seed, NAME, round))
        return [self._table.prompts[i] for i in open_[drawn]]

    def probes(self, step: int) -> Sequence[Prompt]:
        return ()

    def observe(self, rollouts: Sequence[PromptRollouts], step: int) -> Mapping[str, float]:
        for item in rollouts:
            if (share := right_share(item, self._settings.right_from)) is None:
                continue
            place, decay = self._table.place(item.prompt), self._settings.rate_decay
            before = self._rates[place] if self._known[place] else share
            self._rates[place] = decay * before + (1 - decay) * share
            self._known[place] = self._sampled[place] = True
        if rollouts:
            now, decay = invalid_share(rollouts), self._settings.invalid_decay
            self._invalid = now if self._invalid is None else decay * self._invalid + (1 - decay) * now
        invalid, size = self._invalid or 0.0, self._setup.prompts_per_step
        counts = np.bincount(bucket_of(self._rates, self._settings.buckets), minlength=self._settings.buckets)
        metrics = {f"bucket_{i}": count / len(self._table) for i, count in enumerate(counts.tolist())}
        return metrics | {"invalid": invalid, "round_size": round_size(size, invalid, self._settings.max_factor)}

    def state(self) -> Mapping[str, Any]:
        sampled = np.flatnonzero(self._sampled).tolist()
        rates = {self._table.prompts[i].prompt_id: float(self._rates[i]) for i in sampled}
        return {"rates": rates, "invalid": self._invalid}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the state, without prompts that are no longer in the data."""
        self._rates = np.array([self._settings.unseen if rate is None else rate for rate in self._first])
        self._known = np.array([rate is not None for rate in self._first])
        self._sampled, self._invalid = np.zeros(len(self._table), dtype=bool), state["invalid"]
        for place, rate in zip(self._table.places(state["rates"]), state["rates"].values(), strict=True):
            if place is not None:
                self._rates[place], self._known[place], self._sampled[place] = rate, True, True


def offline_rate(prompt: Prompt, settings: Settings) -> float | None:
    """The row's share of right responses from before training, in the field `settings.pass_rate` of extra_info; None
    if this setting is None. Raises ConfigError if the field has no number from 0 to 1."""
    if settings.pass_rate is None:
        return None
    rate = prompt.extra_info.get(settings.pass_rate)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
        wrong = f"{prompt.row} has no number from 0 to 1 in extra_info.{settings.pass_rate}; got {rate!r}"
        raise ConfigError(f"recipe.settings.glm_rlcs.pass_rate: {wrong}; add it, or set pass_rate to null")
    return float(rate)
