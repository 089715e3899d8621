"""For evaluations: the compat score of an answer, and whether the answer is readable. Only for built-in rewards."""

from __future__ import annotations

from dataclasses import dataclass

from mars.rewards.built_in import BUILT_IN
from mars.types import RewardInput, RewardResult


@dataclass(frozen=True)
class CompatScore:
    """compat: the score of the paper's public code, without format points, in [0, highest] (docs/rewards.md).

    highest: the largest `compat` that the truth allows: 1 + 0.3 ln(number of true boxes) for grounding, 1 for an empty
        scene and for VQA.
    readable: whether there is an answer to compare at all. An unreadable answer is wrong.
    """

    compat: float
    highest: float
    readable: bool


def compat_score(function: str | None, item: RewardInput, result: RewardResult) -> CompatScore | None:
    """The compat score of `item`, for which reward `function` gave `result`; None unless `function` is built in.

    Example: two true boxes, both found exactly: compat = highest = 1 + 0.3 ln 2, while accuracy is 1.
    """
    if function not in BUILT_IN:
        return None
    reward = BUILT_IN[function]
    compat = 0.0 if result.failed is not None else result.parts.get("compat", result.accuracy)
    return CompatScore(compat, reward.highest_compat(item.truth), reward.is_readable(item.response))
