"""Visionary-R1: a response captions the image before it thinks, and earns a bonus if this caption is enough to answer.

reward.function: recipe/visionary_r1/functions.py:score
recipe.requests: recipe/visionary_r1/functions.py:CaptionAlone   asks the question with the caption, no images
recipe.shaping:  recipe/visionary_r1/functions.py:CaptionReward  the reward for the accuracy of that answer

A row's `extra_info.problem_type` is "OCR" or "free-form" if its answers may be partly right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from mars.errors import DataError
from mars.hooks.contract import StepFacts
from mars.hooks.requests import Extra, accuracy_about, asked_alone, without_images
from mars.rewards.contract import Size
from mars.rewards.parsing import has_visible, parse_truth, plain_minus, read_blocks, read_each
from mars.rewards.text_metrics import edit_similarity, rouge_l, rouge_n
from mars.rewards.vqa import answer_accuracy, check_truth
from mars.types import Message, Prompt, PromptRollouts, RewardInput, RewardResult

NAME = "caption"
REFUSAL = "Hacking Sample"
"""What the second pass says of a caption that is more than a description."""
INSTRUCTION = "First describe the image inside <info> and </info> tags"
"""How the instruction of visionary_r1.jinja begins. What is before it is the question."""
CHECK = (
    "You get a text about an image, and a question. First check the text. If it has more than a description of what "
    "can be seen, such as an answer, a solution, a conclusion or steps of reasoning ('because', 'therefore'), say only "
    f"'{REFUSAL}'. If it only describes, answer the question from the description alone, in a single word or phrase."
)
MAX_CHARS = 300  # of an answer that is compared in part: the comparison takes quadratic time
_NUMBER = re.compile(r"[-+]?\d*\.?\d+")


@dataclass(frozen=True)
class Settings:
    """weight: of the accuracy of the answer from the caption alone; their product is added to the score."""

    weight: float


def score(item: RewardInput) -> RewardResult:
    """accuracy + format, each in [0, 1]. format: 1 for <info>, <think> and <answer> in this order, and nothing else.

    A response to a request with only the caption has no tags: its score is its accuracy. Raises DataError for a
    malformed truth.
    """
    check_score(item.truth, item.extra_info)
    if item.extra == NAME:
        said = item.response.strip()
        found = 0.0 if REFUSAL.casefold() in said.casefold() else accuracy(item, said)
        return RewardResult(found, found, {"accuracy": found})
    answers = read_each(item.response, "answer")
    found = accuracy(item, answers[0]) if len(answers) == 1 else 0.0
    form = float(read_blocks(item.response, ("info", "think", "answer")) is not None)
    return RewardResult(found + form, found, {"accuracy": found, "format": form})


def check_score(truth: str, extra_info: Mapping[str, Any], truth_size: Size | None = None) -> None:
    """Raises DataError for a malformed truth: an empty one or, if `accuracy` uses the rules of vqa for this row, one
    that these rules refuse."""
    text, kind = (parse_truth(truth).answer or "").strip(), extra_info.get("problem_type")
    if kind == "free-form" or (kind == "OCR" and as_number(text) is None):
        problem = None if re.search(r"\w", text) else f"truth: got {truth[:80]!r}; want a text"
    else:
        problem = check_truth(truth, extra_info, truth_size)
    if problem is not None:
        raise DataError(problem)


def accuracy(item: RewardInput, answer: str) -> float:
    """In [0, 1], by `problem_type`. free-form: ROUGE. OCR, if the truth is not a number: edit similarity. All else: the
    rules of vqa; but if the truth is a number and the row has no choices, an answer whose first number is equal also
    gets 1 ("50%" is 0.5)."""
    truth, kind = (parse_truth(item.truth).answer or "").strip(), item.extra_info.get("problem_type")
    if kind == "free-form":
        return rouge(answer, truth)
    number = as_number(truth)
    if number is None and kind == "OCR":
        return edit_similarity(answer.strip().lower(), truth.lower()) if len(answer) <= MAX_CHARS else 0.0
    if number is not None and not item.extra_info.get("choices") and first_number(answer) == number:
        return 1.0
    return answer_accuracy(item, answer)


def rouge(answer: str, truth: str) -> float:
    """Mean F1 of ROUGE-1, -2, -L over words of letters and digits; 0 if `answer` has over 10 * MAX_CHARS characters."""
    ours, true = (re.findall(r"\w+", text.casefold()) for text in (answer, truth))
    if len(answer) > 10 * MAX_CHARS:
        return 0.0
    return (rouge_n(ours, true, 1) + rouge_n(ours, true, 2) + rouge_l(ours, true)) / 3


def as_number(text: str) -> float | None:
    try:
        number = float(plain_minus(text))
    except ValueError:
        return None
    return number if isfinite(number) else None


def first_number(text: str) -> float | None:
    found = _NUMBER.search(plain_minus(text[:MAX_CHARS]))
    if found is None:
        return None
    return float(found.group()) / (100 if text.strip().endswith("%") else 1)


def caption_of(text: str) -> str | None:
    """The caption in a response; None if there is none, an empty one, or more than one."""
    found = read_each(text, "info")
    return found[0].strip() if len(found) == 1 and has_visible(found[0]) else None


def messages(prompt: Prompt, caption: str) -> tuple[Message, ...]:
    """The earlier messages, and the question with the caption, all without images. CHECK is the only system message."""
    *earlier, question = without_images(prompt, INSTRUCTION)
    earlier = [message for message in earlier if message.role != "system"]
    return Message("system", CHECK), *earlier, Message("user", f"Text: {caption}\nQuestion: {question.text}")


class CaptionAlone:
    """For each response that has a caption, asks the prompt's question with this caption instead of the images.

    Each request has one sample, with the sampling settings of multi responses.
    """

    def before(self, prompt: Prompt, facts: StepFacts) -> Sequence[Extra]:
        return ()

    def after(self, item: PromptRollouts, facts: StepFacts) -> Sequence[Extra]:
        return asked_alone(item, NAME, caption_of, messages)


class CaptionReward:
    """weight * accuracy of the answer that the model gives from the caption alone; 0 without a caption."""

    part, on, ramps = NAME, "all", ("weight",)

    def __call__(self, item: PromptRollouts, facts: StepFacts) -> Sequence[float]:
        return [facts.settings.weight * found for found in accuracy_about(item, NAME)]
