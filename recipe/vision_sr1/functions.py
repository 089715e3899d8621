"""Vision-SR1: a response describes the image first, and is rewarded if its description alone gives the right answer.

reward.function: recipe/vision_sr1/functions.py:score
recipe.requests: recipe/vision_sr1/functions.py:DescriptionAlone  asks the question with the description, no images
recipe.shaping:  recipe/vision_sr1/functions.py:SelfReward        the reward if that answer is right
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mars.hooks.contract import StepFacts
from mars.hooks.requests import Extra, accuracy_about, asked_alone, without_images
from mars.rewards.boxed import BOX, boxed_accuracy
from mars.rewards.parsing import has_visible, read_blocks, read_each
from mars.rewards.vqa import check_truth
from mars.types import Message, Prompt, PromptRollouts, RewardInput, RewardResult

NAME = "self_reward"
INSTRUCTION = "First describe the image inside <description> and </description> tags"
"""How the instruction of vision_sr1.jinja begins. What is before it is the question."""


@dataclass(frozen=True)
class Settings:
    """weight: of the accuracy of the answer from the description alone; their product is added to the score."""

    weight: float


def score(item: RewardInput) -> RewardResult:
    """0.9 accuracy + 0.1 format. Raises DataError for a malformed truth.

    format: 1 for <description>, <think> and the answer in a LaTeX box (`BOX`), in this order, and nothing else.
    """
    accuracy = boxed_accuracy(item)
    form = float(has_form(item.response))
    return RewardResult(0.9 * accuracy + 0.1 * form, accuracy, {"accuracy": accuracy, "format": form})


check_score = check_truth


def has_form(text: str) -> bool:
    """Whether a text is a description, a think and a box, in this order, with only blanks between them."""
    blocks, end, last = text.rpartition("</think>")
    has_box = last.strip().startswith(BOX) and last.strip().endswith("}")
    return has_box and read_blocks(blocks + end, ("description", "think")) is not None


def description_of(text: str) -> str | None:
    """The description in a response; None if there is none or an empty one, or if there are several."""
    found = read_each(text, "description")
    return found[0].strip() if len(found) == 1 and has_visible(found[0]) else None


class DescriptionAlone:
    """For each response that has a description, asks the prompt's question with this description instead of the images.

    Each request has one sample, with the sampling settings of multi responses.
    """

    def before(self, prompt: Prompt, facts: StepFacts) -> Sequence[Extra]:
        return ()

    def after(self, item: PromptRollouts, facts: StepFacts) -> Sequence[Extra]:
        return asked_alone(item, NAME, description_of, messages)


def messages(prompt: Prompt, description: str) -> tuple[Message, ...]:
    """The earlier messages, and the question with the description, all without images."""
    *earlier, question = without_images(prompt, INSTRUCTION)
    text = (
        f"Text description: {description}\nQuestion: {question.text}\n"
        "Think inside <think> and </think> tags about what the description says, then give the answer in \\boxed{}."
    )
    return (*earlier, Message("user", text))


class SelfReward:
    """weight * accuracy of the answer that the model gives from the response's description alone; 0 without one."""

    ramps = ("weight",)
    part, on = NAME, "all"

    def __call__(self, item: PromptRollouts, facts: StepFacts) -> Sequence[float]:
        return [facts.settings.weight * found for found in accuracy_about(item, NAME)]
