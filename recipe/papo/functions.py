"""PAPO: a loss by which log-probs of a response come to depend more on the image, and a reward for a boxed answer.

reward.function:   recipe/papo/functions.py:score
recipe.transforms: recipe/papo/functions.py:masked           black patches
recipe.tokens:     recipe/papo/functions.py:PerceptionLoss   the terms of the loss
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mars.algorithms.kl import capped_k3
from mars.algorithms.token_rule import Measured, ScoringPass, TokenFacts, TokenTerms
from mars.data.pixels.transforms import blank_patches
from mars.image_transform import ImageTransform
from mars.rewards.boxed import boxed_accuracy, has_blocks_and_box
from mars.rewards.vqa import check_truth
from mars.types import RewardInput, RewardResult

PATCH = 14
"""Pixels of a side of a patch."""


@dataclass(frozen=True)
class Settings:
    """masked_share: share of the patches that are black. images: which images of a prompt are masked, "all" or "one".

    gamma: factor of the perception term. cap: largest amount that a token adds to it, in nats. entropy, masked_entropy:
    factors of the entropy terms for the image and for the masked image. through_masked: whether log-probs for the
    masked image come from the current weights, with gradient, or from the weights before the step's first update.
    """

    masked_share: float
    images: str
    gamma: float
    cap: float
    entropy: float
    masked_entropy: float
    through_masked: bool

    def __post_init__(self) -> None:
        if not 0 < self.masked_share <= 1:
            raise ValueError("masked_share must be above 0 and at most 1")
        if self.images not in ("all", "one"):
            raise ValueError('images must be "all" or "one"')
        if min(self.gamma, self.entropy, self.masked_entropy) < 0 or self.cap <= 0:
            raise ValueError("gamma, entropy and masked_entropy must not be negative, and cap must be above 0")
        if self.masked_entropy > 0 and not self.through_masked:
            raise ValueError("masked_entropy has no gradient without through_masked: set one of the two")


def score(item: RewardInput) -> RewardResult:
    """0.9 accuracy + 0.1 format. Raises DataError for a malformed truth.

    accuracy: of the last \\boxed{}. format: 1 for a <think> followed by a \\boxed{}, with nothing before.
    """
    accuracy, form = boxed_accuracy(item), float(has_blocks_and_box(item.response, "think"))
    return RewardResult(0.9 * accuracy + 0.1 * form, accuracy, {"accuracy": accuracy, "format": form})


check_score = check_truth


def masked(settings: Settings) -> ImageTransform:
    return blank_patches(settings.masked_share, PATCH)


class PerceptionLoss:
    """Adds to the loss of each token, with p its log-prob and m its log-prob for the masked image:

    -gamma min(k3, cap) - entropy p - masked_entropy m,    k3 = exp(m - p) - (m - p) - 1

    For a prompt without an image, only the term -entropy p is added.
    """

    measures = False
    ramps = ("gamma", "cap", "entropy", "masked_entropy")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        images = "one" if settings.images == "one" else "all"
        self.passes = (ScoringPass("masked", "masked", images=images, gradient=settings.through_masked),)

    def measure(self, facts: TokenFacts) -> Mapping[str, Measured]:
        return {}

    def apply(self, facts: TokenFacts, totals: Mapping[str, float]) -> TokenTerms:
        chosen, other = facts.now("papo", self.settings), facts.extra["masked"]
        seen = facts.with_images
        kl = torch.where(seen, capped_k3(facts.logprobs, other, chosen.cap), 0.0)
        of_masked = torch.where(seen, other, 0.0)
        loss = -chosen.gamma * kl - chosen.entropy * facts.logprobs - chosen.masked_entropy * of_masked
        measured, tokens = kl.detach(), seen.sum()
        return TokenTerms(
            extra_loss=loss,
            means={
                "perception_kl": (measured.sum(), tokens),
                "perception_capped": ((measured >= chosen.cap).sum(), tokens),
            },
        )
