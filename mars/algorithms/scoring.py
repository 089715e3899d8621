"""`ScoringSpec`: what a trainer computes of each response without training on it.

A run computes `KL_TO_REFERENCE` if algorithm.kl_placement=reward, and the spec of each `Signal` that a shaping asks
for (mars/hooks/contract.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal

from mars.errors import ConfigError


@dataclass(frozen=True)
class ScoringSpec:
    """What to compute for each response: one number.

    name: of this number. value: "sum" or "mean" of the tokens' log-probs under `model`, or "kl": the sum of the tokens'
        KL(policy || reference) by `algorithm.kl_estimator`; "kl" does not use `model`.
    model: "policy" with its current weights, or "reference", which must be loaded.
    transform: of the images, a name of `recipe.transforms`; None: the images as they are. Its random numbers depend on
        `TrainBatch.step`. strength: of the transform.
    Raises ConfigError for a field with any other value.
    """

    name: str
    value: Literal["kl", "sum", "mean"]
    model: Literal["policy", "reference"] = "policy"
    transform: str | None = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        number = type(self.strength) in (int, float) and isfinite(self.strength)
        wrong = [
            (not isinstance(self.name, str) or not self.name, "name", "give a text"),
            (self.value not in ("kl", "sum", "mean"), "value", 'give "sum", "mean" or "kl"'),
            (self.model not in ("policy", "reference"), "model", 'give "policy" or "reference"'),
            (not isinstance(self.transform, str | None), "transform", "give a name of recipe.transforms, or None"),
            (not number, "strength", "give a finite number"),
        ]
        for is_wrong, name, do in wrong:
            if is_wrong:
                got = getattr(self, name)
                raise ConfigError(
                    f"recipe.shaping: {name} of the signal {self.name!r} cannot be used; got {got!r}; {do}"
                )

    @property
    def needs_reference(self) -> bool:
        return self.value == "kl" or self.model == "reference"


KL_TO_REFERENCE = ScoringSpec("kl", "kl")

Span = tuple[int, int]
"""First token of a response that counts, and the one after the last."""
