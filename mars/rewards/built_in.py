"""The table of built-in rewards.

To add one: a module like mars/rewards/vqa.py that ends with a `BuiltInReward`, and one line in `_TABLE`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from mars.errors import ConfigError
from mars.plugin import is_spec
from mars.rewards.contract import ACCURACY, BuiltInReward
from mars.rewards.grounding import GROUNDING
from mars.rewards.vqa import VQA

_TABLE = (
    GROUNDING,
    VQA,
)

_NAME = re.compile("[a-z][a-z0-9_]*")
# `data.template` gives the first two a meaning of its own. YAML and Hydra read the others as values, not as texts.
_RESERVED = ("auto", "none", "null", "true", "false", "yes", "no", "on", "off", "inf", "nan")


def table_of(rewards: Iterable[BuiltInReward]) -> dict[str, BuiltInReward]:
    """Name -> reward. Raises ConfigError for a name that two rewards have, that is reserved, or that is not a word of
    small ASCII letters, digits and "_". So `reward.function` and `data.template` can tell a name from a file."""
    table: dict[str, BuiltInReward] = {}
    for reward in rewards:
        name = reward.name
        if not _NAME.fullmatch(name) or name in _RESERVED:
            wanted = f"want small letters, digits and _, but none of {', '.join(_RESERVED)}"
            raise ConfigError(f"mars/rewards/built_in.py: not a name for a built-in reward; got {name!r}; {wanted}")
        if name in table:
            raise ConfigError(f"mars/rewards/built_in.py: two built-in rewards have the name {name!r}; rename one")
        table[name] = reward
    return table


BUILT_IN = table_of(_TABLE)


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
