"""A third built-in reward: a number, as near to the truth as can be."""

from __future__ import annotations

from mars.rewards.contract import BuiltInReward
from mars.rewards.parsing import format_score, parse_response
from mars.types import RewardResult


def closeness(item):
    """A number; half a point for one that is off by one."""
    response = parse_response(item.response)
    off = abs(int(response.answer) - int(item.truth)) if is_number(response.answer) else 2
    accuracy = max(1 - off / 2, 0.0)
    form = format_score(response, wants_fence=False)
    return RewardResult(form + accuracy, accuracy, {"format": form, "off": float(off)})


def is_number(text):
    return text is not None and text.isascii() and text.isdigit()


COUNT = BuiltInReward(
    name="count",
    score=closeness,
    compat=closeness,
    check_truth=lambda truth, extra_info, size: None if is_number(truth) else f"truth: no number; got {truth!r}",
    perfect_answer=lambda item: f"<think>I counted.</think><answer>{item.truth}</answer>",
    is_readable=lambda response: is_number(parse_response(response).answer),
    parts=("format", "off"),
    metric="closeness",
    template="vqa",
)
