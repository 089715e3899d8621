"""Whether prompts and reward agree: the perfect answer to a row, in the words its prompt asks for, earns full marks."""

from __future__ import annotations

import json

from mars.answers.record import reward_input
from mars.data.prompts.boxes import BoxFrames
from mars.data.prompts.templates import has_instruction
from mars.errors import DataError
from mars.rewards.contract import RewardFn
from mars.rewards.functions import is_built_in
from mars.rewards.grounding import read_truth
from mars.types import Prompt, View

EMPTY_ANSWER = "<think></think><answer></answer>"
_TOLERANCE = 1e-6


def perfect_answer(prompt: Prompt, view: View, function: str, frames: BoxFrames) -> str:
    """What a model that knows the truth would answer, boxes in the model's frame. Raises DataError as the reward does.

    grounding: the truth's boxes, carried over from the stored image to the frame of the answer. vqa and functions of
    a user's own: the truth as it is, one of several right choices.
    Example: truth [[0, 0, 640, 512]] of a 1280x1024 image that the model sees as 1120x896 -> [0, 0, 560, 448].
    """
    if function != "grounding":
        return f"<think>The truth.</think><answer>{_one_of(prompt)}</answer>"
    truth_size, response_size = frames(prompt, view)
    boxes = [list(box) for box in read_truth(prompt.truth)]
    if truth_size is not None and response_size is not None:
        scale = [ours / true for ours, true in zip(response_size, truth_size, strict=True)] * 2
        boxes = [[side * factor for side, factor in zip(box, scale, strict=True)] for box in boxes]
    answer = json.dumps([{"bbox_2d": box, "label": "object"} for box in boxes])
    return f"<think>The truth.</think><answer>```json\n{answer}\n```</answer>"


def _one_of(prompt: Prompt) -> str:
    """The truth; of several right choices ("B or D") the first."""
    choices = prompt.extra_info.get("choices") or ()
    is_option = prompt.truth in (choices.values() if isinstance(choices, dict) else choices)
    return prompt.truth if not choices or is_option else prompt.truth.split(" or ")[0]


def disagreement(prompt: Prompt, function: str, reward: RewardFn, frames: BoxFrames) -> str | None:
    """Why prompt and built-in reward do not agree on a row, or None.

    The prompt must ask for think and answer tags (and for grounding for a json block), a perfect answer must score an
    accuracy of 1, an empty one 0. Functions of a user's own are not called: nothing is known of what they want.
    """
    if not is_built_in(function):
        return None
    if not has_instruction(prompt):
        return "the prompt does not ask for <think> and <answer> tags, which the reward wants; see data.template"
    if function == "grounding" and "json" not in prompt.messages[-1].text:
        return "the prompt does not ask for a json code block, which the reward wants; see data.template"
    try:
        perfect = reward(reward_input(prompt, None, perfect_answer(prompt, None, function, frames), frames)).accuracy
        empty = reward(reward_input(prompt, None, EMPTY_ANSWER, frames)).accuracy
    except DataError as error:
        return str(error)
    if perfect < 1 - _TOLERANCE:
        return f"a perfect answer scores {perfect:.3f}, not 1"
    if empty != 0:
        return f"an empty answer scores {empty:.3f}, not 0"
    return None
