"""VOGUE: some prompts are trained on responses to noisy images, with a bonus where the noise changes the policy most.

recipe.requests:   recipe/vogue/functions.py:NoisyBranch    samples some prompts with noisy images
recipe.advantage:  recipe/vogue/functions.py:OneBranch      trains these prompts only on their noisy responses
recipe.tokens:     recipe/vogue/functions.py:NoisyBonus     adds to the advantages of these responses' tokens
recipe.transforms: recipe/vogue/functions.py:noise          noise on images; its name must be "noise"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mars.algorithms.advantages import Advantages
from mars.algorithms.token_rule import Measured, ScoringPass, TokenFacts, TokenTerms
from mars.data.pixels.transforms import gaussian_diffusion
from mars.hooks.contract import StepFacts
from mars.hooks.requests import Extra
from mars.image_transform import ImageTransform, transform_seed, transformed
from mars.types import Prompt, PromptRollouts

NAME = "noisy"
"""Of the extra request, and of the pass that scores all responses with its images."""
TRANSFORM = "noise"
NEEDS = {"rollout.top_p": 1.0, "rollout.top_k": 0}  # with tokens cut off, the estimate of `uncertainty` would be biased
_MAX_LOG_RATIO = 20.0  # keeps exp finite in float32


@dataclass(frozen=True)
class Settings:
    """samples: responses to the noisy images. noisy_share: probability that a prompt is trained on them; may be a ramp.

    steps: diffusion steps of the noise, of 1000.
    uncertainty, entropy: factors of the two bonuses. max_uncertainty: of a token, in nats. These three may be ramps
    too.
    """

    samples: int
    noisy_share: float
    steps: int
    uncertainty: float
    entropy: float
    max_uncertainty: float

    def __post_init__(self) -> None:
        if self.samples < 1 or not 0 <= self.steps <= 1000 or not 0 <= self.noisy_share <= 1:
            raise ValueError("samples must be at least 1, steps within 0 to 1000, noisy_share within 0 to 1")
        if self.max_uncertainty <= 0:
            raise ValueError("max_uncertainty must be above 0")


def noise(settings: Settings) -> ImageTransform:
    return gaussian_diffusion(settings.steps)


class NoisyBranch:
    """Also samples a prompt with noise on its images, if `is_noisy` chooses the prompt in this step. The responses are
    guests."""

    ramps = ("noisy_share",)

    def before(self, prompt: Prompt, facts: StepFacts) -> Sequence[Extra]:
        images = tuple(source.image for source in prompt.sources)
        if not images or not is_noisy(prompt.prompt_id, facts):
            return ()
        # The same key of random numbers as in the pass NAME, so that the trainer scores responses with the same noise.
        shown = transformed(images, TRANSFORM, 1.0, facts.seed, facts.step, NAME, prompt.prompt_id)
        return (Extra(NAME, "guest", prompt.messages, shown, prompt.truth, facts.settings.samples, bounded=True),)

    def after(self, item: PromptRollouts, facts: StepFacts) -> Sequence[Extra]:
        return ()


def is_noisy(prompt_id: str, facts: StepFacts) -> bool:
    """Whether the step trains the prompt on responses to noisy images: yes with probability `noisy_share`."""
    return transform_seed("branch", facts.seed, facts.step, prompt_id) / 2**64 < facts.settings.noisy_share


class OneBranch:
    """Weight 0 for a prompt's responses to clean images, if the prompt is trained on responses to noisy images.

    If all noisy responses failed or are left out (algorithm.truncated_responses=mask), the clean ones are trained on.
    Clean and noisy responses always stay in the pool from which advantages are computed.
    """

    def __call__(self, base: Advantages, kept: Sequence[PromptRollouts], facts: StepFacts) -> Advantages:
        factors, weights = [], base.weights.tolist()
        for item in kept:
            own = weights[len(factors) : len(factors) + len(item.trained)]
            noisy = [one.extra == NAME for one in item.trained]
            any_noisy = any(one and weight > 0 for one, weight in zip(noisy, own, strict=True))
            factors += [float(one or not any_noisy) for one in noisy]
        return replace(base, weights=base.weights * base.weights.new_tensor(factors))

    def state(self) -> Mapping[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        pass


class NoisyBonus:
    """Adds uncertainty x min(u, max_uncertainty) + entropy x H to the advantage of each token of a noisy response.

    u: what the function `uncertainty` estimates. H: the entropy of the token's distribution. The others are settings.
    """

    ramps = ("uncertainty", "entropy", "max_uncertainty")
    passes = (ScoringPass(NAME, TRANSFORM),)
    measures = False

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def measure(self, facts: TokenFacts) -> Mapping[str, Measured]:
        return {}

    def apply(self, facts: TokenFacts, totals: Mapping[str, float]) -> TokenTerms:
        noisy = facts.off_policy & ~facts.guests  # a guest of anchor.guide saw clean images
        clean = facts.layout.mask & ~noisy
        now = facts.now("vogue", self._settings)
        found = uncertainty(facts.old, facts.extra[NAME], noisy).clamp(max=now.max_uncertainty)
        bonus = now.uncertainty * found + now.entropy * facts.entropy
        return TokenTerms(
            advantages=facts.advantages + torch.where(noisy, bonus, 0.0),
            means={
                "uncertainty_clean": ((found * clean).sum(), clean.sum()),
                "uncertainty_noisy": ((found * noisy).sum(), noisy.sum()),
            },
        )


def uncertainty(clean: Tensor, noisy: Tensor, from_noisy: Tensor) -> Tensor:
    """An estimate of u = (KL(clean || noisy) + KL(noisy || clean)) / 2 at each token: (e^d - 1) d / 2, never negative.

    clean, noisy: log-probs of the sampled tokens given the two images, [T]. from_noisy: whether the token was sampled
    given the noisy image. d: log-prob given the other image minus log-prob given the image it was sampled from. Over
    sampled tokens, the mean of e^d - 1 - d is the KL to the other distribution, and the mean of d e^d - e^d + 1 the KL
    back. Their sum is (e^d - 1) d, whose mean is 2 u.
    """
    d = torch.where(from_noisy, clean - noisy, noisy - clean).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    return torch.expm1(d) * d / 2
