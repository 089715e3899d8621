"""PEARL: questions about what the images show are trained too, and decide whether their prompt is trained on.

reward.function:  recipe/pearl/functions.py:score
recipe.requests:  recipe/pearl/functions.py:Checklist  the perception questions of a row, as a group of their own
recipe.advantage: recipe/pearl/functions.py:Gate       weight 0 for a prompt with too many wrong perception answers

A row's `extra_info.checklist` is a list of {"question": ..., "answer": ...}. If a question also has a "source", only
the image of this source is shown with it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mars.algorithms.advantages import Advantages
from mars.errors import DataError
from mars.hooks.contract import StepFacts
from mars.hooks.requests import Extra
from mars.rewards.contract import Size
from mars.rewards.parsing import has_visible, parse_response
from mars.rewards.vqa import answer_accuracy, check_truth, score_vqa
from mars.types import IMAGE_MARKER, Message, Prompt, PromptRollouts, RewardInput, RewardResult, View

NAME = "perception"
NEEDS = {"algorithm.part_weights": {}}  # a checklist has no other part than its own
_ROUNDING = 1e-9  # a mean accuracy lower than the threshold by no more than this is not below it
INSTRUCTION = (
    "Look at each of these questions first inside <think> and </think> tags. Then give all answers inside <answer> and "
    "</answer> tags, one on each line, in order, as short as possible."
)


@dataclass(frozen=True)
class Settings:
    """num_samples: responses to a checklist. threshold: prompts of lower mean checklist accuracy are not trained on."""

    num_samples: int
    threshold: float

    def __post_init__(self) -> None:
        if self.num_samples < 2 or not 0 <= self.threshold <= 1:
            raise ValueError("want num_samples of 2 or more and a threshold in [0, 1]")


def score(item: RewardInput) -> RewardResult:
    """A checklist: the share of right answers. Else as reward vqa: accuracy + format (0 to 0.5). Raises DataError."""
    if item.extra != NAME:
        return score_vqa(item)
    return RewardResult(share := share_right(item), share, {"perception": share})


def share_right(item: RewardInput) -> float:
    """The share of right answers to a checklist: line i is compared with entry i of `item.truth`, a JSON list.

    A missing line is wrong. Empty lines, and lines beyond the number of questions, are ignored.
    """
    truths = json.loads(item.truth)
    lines = [line for line in (parse_response(item.response).answer or "").splitlines() if has_visible(line)]
    one = replace(item, extra_info={})  # without the choices in it, which are for the main question
    right = [
        answer_accuracy(replace(one, truth=truth), without_number(lines[i].strip(), i + 1) if i < len(lines) else None)
        for i, truth in enumerate(truths)
    ]
    return sum(right) / len(truths)


def without_number(line: str, number: int) -> str:
    """A line without the number of its question, if it begins with this number: line 2 "2. red" becomes "red"."""
    marks = (f"{number}. ", f"{number}) ", f"({number}) ", f"{number}: ")
    return next((line[len(mark) :].strip() for mark in marks if line.startswith(mark)), line)


def checklist_of(prompt: Prompt) -> dict[View, list[tuple[str, str]]]:
    """`read_checklist` of a row. Raises DataError that names the row."""
    try:
        return read_checklist(prompt.extra_info, [source.name for source in prompt.sources])
    except DataError as error:
        raise DataError(f"{prompt.row}: {error}") from error


def read_checklist(extra_info: Mapping[str, Any], names: Sequence[str] | None) -> dict[View, list[tuple[str, str]]]:
    """View -> its questions and answers; the view None has all images. {} without a checklist. Raises DataError.

    names: the sources of the row; None if unknown."""
    found: dict[View, list[tuple[str, str]]] = {}
    given = extra_info.get("checklist") or []
    for one in given if isinstance(given, list | tuple) else [given]:
        pair = tuple(one.get(key) for key in ("question", "answer")) if isinstance(one, Mapping) else (None, None)
        if not all(isinstance(text, str) and has_visible(text) for text in pair):
            got = f"extra_info.checklist: got {str(one)[:80]}"
            raise DataError(f'{got}; want a list of {{"question": ..., "answer": ...}}, both texts')
        source = one.get("source")
        if not (source is None or names is None or source in names):
            has = f"the row has {', '.join(names) or 'none'}"
            raise DataError(f"extra_info.checklist: unknown source; got {source}; {has}")
        found.setdefault(None if source is None else (str(source),), []).append(pair)
    return found


def check_score(truth: str, extra_info: Mapping[str, Any], truth_size: Size | None) -> str | None:
    """What is wrong with the truth or a checklist's answer, or None. Raises DataError for a malformed checklist."""
    answers = [answer for pairs in read_checklist(extra_info, None).values() for _, answer in pairs]
    problems = [f"extra_info.checklist: {problem}" for one in answers if (problem := check_truth(one, {}, None))]
    return check_truth(truth, extra_info, truth_size) or next(iter(problems), None)


class Checklist:
    """One request for each set of images: all perception questions about them."""

    def before(self, prompt: Prompt, facts: StepFacts) -> Sequence[Extra]:
        asked = []
        for view, pairs in checklist_of(prompt).items():
            images = tuple(one.image for one in prompt.sources if view is None or one.name in view)
            questions = "\n".join(f"{i}. {question}" for i, (question, _) in enumerate(pairs, start=1))
            message = Message("user", f"{IMAGE_MARKER * len(images)}{questions}\n{INSTRUCTION}")
            truth = json.dumps([answer for _, answer in pairs])
            asked.append(Extra(NAME, "own_group", (message,), images, truth, facts.settings.num_samples, view=view))
        return asked

    def after(self, item: PromptRollouts, facts: StepFacts) -> Sequence[Extra]:
        return ()


class Gate:
    """Weight 0 for the responses to a prompt whose checklists have a mean accuracy below `threshold`.

    A prompt is also trained on if it has no checklist, or if no response to its checklist could be scored.
    """

    ramps = ("threshold",)

    def __call__(self, base: Advantages, kept: Sequence[PromptRollouts], facts: StepFacts) -> Advantages:
        opened = [opens(item, facts.settings.threshold) for item in kept for _ in item.trained]
        return replace(base, weights=base.weights * base.weights.new_tensor(opened))

    def state(self) -> Mapping[str, Any]:
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        pass


def opens(item: PromptRollouts, threshold: float) -> float:
    """1 if the prompt is trained on, else 0."""
    shares = [one.reward.accuracy for group in item.extras for one in group.valid if one.extra == NAME]
    return float(not shares or math.fsum(shares) / len(shares) >= threshold - _ROUNDING)
