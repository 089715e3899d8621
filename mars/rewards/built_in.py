"""The table of built-in rewards.

To add one: a module like mars/rewards/vqa.py that ends with a `BuiltInReward`, and one line in `_TABLE`.
"""

from __future__ import annotations

from mars.plugin import is_spec
from mars.rewards.contract import ACCURACY, BuiltInReward
from mars.rewards.grounding import GROUNDING
from mars.rewards.vqa import VQA

_TABLE = (
    GROUNDING,
    VQA,
)

BUILT_IN: dict[str, BuiltInReward] = {reward.name: reward for reward in _TABLE}


def is_built_in(function: str) -> bool:
    """Whether `function` names a built-in reward, which runs no user's code and needs no deadline."""
    return function in BUILT_IN


def built_in_names(separator: str = ", ") -> str:
    """The names of the built-in rewards, for messages and help: "grounding, vqa"."""
    return separator.join(BUILT_IN)


def wanted_rewards() -> str:
    """The values that `reward.function` takes, for messages: "grounding, vqa or path/to/file.py:name"."""
    return f"{built_in_names()} or path/to/file.py:name"


def is_reward(name: str) -> bool:
    """Whether `name` has the form of a reward: a built-in name, or "path/to/file.py:name". The file is not opened."""
    return is_built_in(name) or is_spec(name)


def metric_of(function: str) -> str:
    """The name of the accuracy of `function` in evaluations; ACCURACY for a user's own function."""
    return BUILT_IN[function].metric if function in BUILT_IN else ACCURACY


def has_boxes(function: str) -> bool:
    """Whether truths and answers of `function` are boxes. False for a user's own function."""
    return function in BUILT_IN and BUILT_IN[function].has_boxes


def default_for(truth: str) -> str:
    """The reward for a ground truth if no reward is named: the first in the table for boxes, or the first for text.

    A truth that starts with "[", "{" or "```json" counts as boxes, even if it is malformed; any other is text.

    >>> default_for("[[0, 0, 640, 512]]"), default_for("three or 3")
    ('grounding', 'vqa')
    """
    wants_boxes = truth.lstrip().startswith(("[", "{", "```json"))
    return next(name for name, reward in BUILT_IN.items() if reward.has_boxes == wants_boxes)
