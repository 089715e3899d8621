"""VPPO: trains on the tokens that depend most on the image, and more on the responses that depend more on it.

reward.function:   recipe/vppo/functions.py:score
recipe.transforms: recipe/vppo/functions.py:masked         black patches
recipe.tokens:     recipe/vppo/functions.py:SeeingTokens   weights of tokens and responses, and the entropy term
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mars.algorithms.kl import capped_k3
from mars.algorithms.token_layout import TokenLayout
from mars.algorithms.token_rule import Measured, ScoringPass, TokenFacts, TokenTerms
from mars.data.pixels.transforms import blank_patches
from mars.image_transform import ImageTransform
from mars.rewards.boxed import boxed_accuracy
from mars.rewards.vqa import check_truth
from mars.types import RewardInput, RewardResult

PATCH = 14
"""Pixels of a side of a patch."""
_ROUNDING = 1e-9
"""Subtracted before rounding up, so that 0.55 x 100 tokens are 55: the product is 55.00000000000001."""
_SAME = 1e-6
"""Responses whose dependencies differ by at most this much all have weight 1."""


@dataclass(frozen=True)
class Settings:
    """masked_share: share of the patches that are black. images: which images of a prompt are masked, "all" or "one".

    cap: largest dependency of a token, in nats. kept_share: share of a response's tokens that stay in the policy loss.
    lowest_weight: weight of the response that depends least on the image. entropy: factor of the entropy term.
    """

    masked_share: float
    images: str
    cap: float
    kept_share: float
    lowest_weight: float
    entropy: float

    def __post_init__(self) -> None:
        if not 0 < self.masked_share <= 1 or not 0 < self.kept_share <= 1:
            raise ValueError("masked_share and kept_share must be above 0 and at most 1")
        if self.images not in ("all", "one"):
            raise ValueError('images must be "all" or "one"')
        if not 0 <= self.lowest_weight <= 1:
            raise ValueError("lowest_weight must be within 0 to 1")
        if self.entropy < 0 or self.cap <= 0:
            raise ValueError("entropy must not be negative, and cap must be above 0")


def score(item: RewardInput) -> RewardResult:
    """The accuracy of the answer in the last \\boxed{}, 0 or 1. Raises DataError for a malformed truth."""
    accuracy = boxed_accuracy(item)
    return RewardResult(accuracy, accuracy, {"accuracy": accuracy})


check_score = check_truth


def masked(settings: Settings) -> ImageTransform:
    return blank_patches(settings.masked_share, PATCH)


def largest(values: Tensor, layout: TokenLayout, share: float) -> Tensor:
    """Which tokens are among the ceil(share x n) largest of their sequence's n trained tokens: bool, [T].

    values: [T]. Among equal values, the first ones are taken.
    """
    order = torch.where(layout.mask, values, -torch.inf).argsort(descending=True, stable=True)
    order = order[layout.sequence_index[order].argsort(stable=True)]
    sizes = torch.bincount(layout.sequence_index, minlength=layout.num_sequences)
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    sizes = (share * layout.lengths().double() - _ROUNDING).ceil()
    return layout.mask & (ranks < layout.spread(sizes))


def response_weights(scores: Tensor, totals: Mapping[str, float], lowest: float) -> Tensor:
    """The weight of each response. It grows with the mean dependency, from `lowest`. Its mean over the update is 1.

    scores: mean dependency of each response, [S]. totals: minimum, maximum, sum and number of the update's `scores`.
    """
    width = totals["high"] - totals["low"]
    if width <= _SAME:
        return torch.ones_like(scores)
    mean = (totals["sum"] / totals["responses"] - totals["low"]) / width
    return lowest + (1 - lowest) * ((scores - totals["low"]) / width).clamp(0, 1) / (mean + 1e-8)


def have_images(facts: TokenFacts) -> Tensor:
    """Which responses have trained tokens and a prompt with an image: bool, [S]."""
    return facts.layout.sum_by_sequence(facts.with_images.long()) > 0


class SeeingTokens:
    """Limits the policy loss to a response's tokens that depend most on the image. Weights advantages by the response's
    mean dependency (`response_weights`). Adds -(setting `entropy`) x log-prob to the loss.

    The dependency is min(exp(m - old) - (m - old) - 1, cap), with m the token's log-prob for the masked image. A
    response to a prompt without an image keeps its tokens and advantages, and is not in `response_weights`' totals.
    """

    measures = True
    ramps = ("cap", "kept_share", "lowest_weight", "entropy")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.passes = (ScoringPass("masked", "masked", images="one" if settings.images == "one" else "all"),)

    def _dependencies(self, facts: TokenFacts) -> tuple[Tensor, Tensor]:
        """The dependencies of tokens, [T], and their mean in each response, [S]."""
        found = capped_k3(facts.old, facts.extra["masked"], facts.now("vppo", self.settings).cap)
        found = torch.where(facts.with_images, found, 0.0)
        return found, facts.layout.sum_by_sequence(found) / facts.layout.lengths().clamp(min=1)

    def measure(self, facts: TokenFacts) -> Mapping[str, Measured]:
        scores = self._dependencies(facts)[1][have_images(facts)]
        low, high = scores.new_tensor([torch.inf]), scores.new_tensor([-torch.inf])  # of a forward without tokens
        return {
            "low": Measured("min", torch.cat([scores, low]).min()),
            "high": Measured("max", torch.cat([scores, high]).max()),
            "sum": Measured("sum", scores.sum()),
            "responses": Measured("sum", torch.tensor(len(scores))),
        }

    def apply(self, facts: TokenFacts, totals: Mapping[str, float]) -> TokenTerms:
        chosen, (found, scores) = facts.now("vppo", self.settings), self._dependencies(facts)
        kept = largest(found, facts.layout, chosen.kept_share) & facts.with_images
        weights = response_weights(scores, totals, chosen.lowest_weight)
        weights = torch.where(have_images(facts), weights, 1.0)
        highest = response_weights(scores.new_tensor(totals["high"]), totals, chosen.lowest_weight)
        return TokenTerms(
            advantages=facts.advantages * facts.layout.spread(weights),
            pg_weights=(kept | (facts.layout.mask & ~facts.with_images)).to(found.dtype),
            extra_loss=-chosen.entropy * facts.logprobs,
            means={
                "dependency": (found.sum(), facts.with_images.sum()),
                "dependency_of_kept": ((found * kept).sum(), kept.sum()),
                "highest_weight": (highest, torch.ones_like(highest)),
            },
        )
