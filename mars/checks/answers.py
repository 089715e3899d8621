"""Check that prompts and rewards agree: the perfect answer in the form that the prompt asks for has accuracy 1."""

from __future__ import annotations

from dataclasses import replace

from mars.answers.record import reward_input
from mars.data.prompts.boxes import BoxFrames
from mars.data.prompts.templates import has_instruction
from mars.errors import DataError
from mars.rewards.built_in import has_boxes, is_built_in
from mars.rewards.contract import RewardFn
from mars.rewards.functions import perfect_answer
from mars.rewards.local import score_one
from mars.types import Prompt, RewardInput, View

EMPTY_ANSWER = "<think></think><answer></answer>"
_TOLERANCE = 1e-6


def answered_perfectly(prompt: Prompt, view: View, function: str, frames: BoxFrames) -> RewardInput:
    """The perfect answer to a view, as reward `function` sees it. Raises DataError for a truth it cannot read.

    Example: truth [[0, 0, 640, 512]] of a 1280x1024 image that the model sees as 1120x896 -> [0, 0, 560, 448].
    """
    item = reward_input(prompt, view, "", frames)
    return replace(item, response=perfect_answer(function, item))


def disagreement(prompt: Prompt, function: str, reward: RewardFn, frames: BoxFrames) -> str | None:
    """Why the prompt of a row does not fit its built-in reward, or None.

    The prompt must ask for think and answer tags. If the answer consists of boxes, the prompt must also ask
    for a json block. A perfect answer must have an accuracy of 1, and an empty answer 0; the reward may fail on
    neither. A user's own function is not checked.
    """
    if not is_built_in(function):
        return None
    if not has_instruction(prompt):
        return "the prompt does not ask for <think> and <answer> tags, which the reward requires; see data.template"
    if has_boxes(function) and "json" not in prompt.messages[-1].text:
        return "the prompt does not ask for a json code block, which the reward requires; see data.template"
    try:
        items = answered_perfectly(prompt, None, function, frames), reward_input(prompt, None, EMPTY_ANSWER, frames)
    except DataError as error:
        return str(error)
    perfect, empty = (score_one(reward, item).result for item in items)
    for answer, result in (("a perfect", perfect), ("an empty", empty)):
        if result.failed is not None:
            return f"the reward fails on {answer} answer: {result.failed}"
    if perfect.accuracy < 1 - _TOLERANCE:
        return f"a perfect answer scores {perfect.accuracy:.3f}, not 1"
    if empty.accuracy != 0:
        return f"an empty answer scores {empty.accuracy:.3f}, not 0"
    return None
