"""`ScoringSpec`: what a trainer computes of each response without training on it.

A run asks for `KL_TO_REFERENCE` with algorithm.kl_placement=reward, and for the signals of shapings
(mars/hooks/contract.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ScoringSpec:
    """One number for each response.

    name: what the numbers are called. value: "sum" or "mean" of the tokens' log-probs under `model`, or "kl": the sum
        of their KL(policy || reference) by `algorithm.kl_estimator`, for which `model` has no meaning.
    model: "policy" with its current weights, or "reference", which must be loaded.
    transform: of the images, a name of `recipe.transforms`; None: the images as they are. Its random numbers depend on
        `TrainBatch.step`. strength: of the transform.
    """

    name: str
    value: Literal["kl", "sum", "mean"]
    model: Literal["policy", "reference"] = "policy"
    transform: str | None = None
    strength: float = 1.0

    @property
    def needs_reference(self) -> bool:
        return self.value == "kl" or self.model == "reference"


KL_TO_REFERENCE = ScoringSpec("kl", "kl")

Span = tuple[int, int]
"""First token of a response that counts, and the one after the last."""
