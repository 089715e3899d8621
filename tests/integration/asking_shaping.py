"""A shaping that asks the trainer for numbers, for jobs of other tests."""

from __future__ import annotations

from mars.algorithms.scoring import ScoringSpec
from mars.hooks.contract import Signal


class Likelihood:
    """The mean log-prob of a response under the policy, plus that under the reference model."""

    part, on = "likelihood", "all"
    signals = (Signal(ScoringSpec("policy", "mean")), Signal(ScoringSpec("reference", "mean", model="reference")))

    def __call__(self, item, facts):
        return [sum(means) for means in zip(*facts.signals.values(), strict=True)]
