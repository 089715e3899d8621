"""NoisyRollout: responses to noisy images join the multi rollouts, and are trained as responses to the clean images.

recipe.requests:   recipe/noisy_rollout/functions.py:NoisyRollouts   samples with noisy images
recipe.transforms: recipe/noisy_rollout/functions.py:noise           named "noise"
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mars.data.pixels.transforms import gaussian_diffusion
from mars.hooks.contract import StepFacts
from mars.hooks.requests import Extra
from mars.image_transform import ImageTransform, transformed
from mars.types import ImageRef, Prompt, PromptRollouts

NAME = "noisy"
TRANSFORM = "noise"


@dataclass(frozen=True)
class Settings:
    """samples: number of responses to the noisy images of a prompt.

    steps: number of diffusion steps, at most 1000, that make the noise at strength 1. strength: share of these steps
        that is done, from 0 to 1; a ramp lowers it.
    """

    samples: int
    steps: int
    strength: float

    def __post_init__(self) -> None:
        if self.samples < 1 or not 0 <= self.steps <= 1000 or not 0 <= self.strength <= 1:
            raise ValueError("samples must be at least 1, steps within 0 to 1000, strength within 0 to 1")


def noise(settings: Settings) -> ImageTransform:
    """The image after int(steps x strength) steps of Gaussian diffusion. strength: as given to `transformed`."""
    return gaussian_diffusion(settings.steps)


class NoisyRollouts:
    """Samples every prompt also with noise on all its images. These responses are guests, and the probability ratio of
    their tokens is bounded as for multi responses."""

    ramps = ("strength",)

    def before(self, prompt: Prompt, facts: StepFacts) -> Sequence[Extra]:
        images = noisy_images(prompt, facts)
        return (Extra(NAME, "guest", prompt.messages, images, prompt.truth, facts.settings.samples, bounded=True),)

    def after(self, item: PromptRollouts, facts: StepFacts) -> Sequence[Extra]:
        return ()


def noisy_images(prompt: Prompt, facts: StepFacts) -> tuple[ImageRef, ...]:
    """The images with noise, which is new in each training step; unchanged if int(steps x strength) is 0."""
    images, settings = tuple(source.image for source in prompt.sources), facts.settings
    if int(settings.steps * settings.strength) == 0:
        return images
    return transformed(images, TRANSFORM, settings.strength, facts.seed, facts.step, prompt.prompt_id)
