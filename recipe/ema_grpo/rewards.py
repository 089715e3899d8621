"""The rewards of OneThinker's tasks on images, by the row's `extra_info.problem_type`.

reward.function: recipe/ema_grpo/rewards.py:score
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import isfinite
from statistics import fmean
from typing import Any

from mars.errors import DataError
from mars.rewards.box_metrics import iou_matrix
from mars.rewards.grounding import frame_scale
from mars.rewards.parsing import Box, load_json, parse_response, parse_truth, plain_minus, read_blocks, read_box
from mars.rewards.text_metrics import edit_distance, rouge_l, rouge_n
from mars.rewards.vqa import answer_accuracy
from mars.types import RewardInput, RewardResult

MAX_WORDS = 1000  # of a text that is compared word by word: the time grows with the product of both lengths
_WORD = re.compile(r"\w+")


def score(item: RewardInput) -> RewardResult:
    """0.9 accuracy + 0.1 format + structure. format: think, then answer. structure: 0.5 if the format is right and the
    answer has the form of its task. Raises DataError for an unknown task and for a malformed truth."""
    kind, answer = item.extra_info.get("problem_type"), parse_response(item.response).answer
    if (task := TASKS.get(str(kind))) is None:
        raise DataError(f"extra_info.problem_type: got {kind!r}; give {', '.join(TASKS)}")
    accuracy, has_form = (part * (answer is not None) for part in task(item, (answer or "").strip()))
    form = float(read_blocks(item.response, ("think", "answer")) is not None)
    parts = {"accuracy": accuracy, "format": form, "structure": 0.5 * form * has_form}
    return RewardResult(0.9 * accuracy + 0.1 * form + parts["structure"], accuracy, parts)


def check_score(truth: str, extra_info: Mapping[str, Any], truth_size: object) -> None:
    """Raises DataError as `score` does."""
    score(RewardInput("", None, "", truth, None, None, extra_info))


def numerical(item: RewardInput, answer: str) -> tuple[float, bool]:
    """1 if both numbers are the same after rounding to two decimals."""
    true, ours = true_number(item), number(answer)
    return float(ours is not None and round(ours, 2) == round(true, 2)), True


def regression(item: RewardInput, answer: str) -> tuple[float, bool]:
    """Mean relative accuracy: the share of t = 0.5, 0.55 .. 0.95 for which the relative error is below 1 - t."""
    true, ours = true_number(item), number(answer)
    if ours is None:
        return 0.0, True
    error = abs(ours - true) / (abs(true) + 1e-8)
    return fmean(error < (10 - k) / 20 for k in range(10)), True


def ocr(item: RewardInput, answer: str) -> tuple[float, bool]:
    """1 - word error rate, at least 0."""
    true, ours = truth_of(item).split()[:MAX_WORDS], answer.split()[:MAX_WORDS]
    return max(1 - edit_distance(ours, true) / max(len(true), 1), 0.0), True


def open_ended(item: RewardInput, answer: str) -> tuple[float, bool]:
    """The mean of ROUGE-1, ROUGE-2 and ROUGE-L over words in small letters, without stemming."""
    true, ours = (_WORD.findall(text.casefold())[:MAX_WORDS] for text in (truth_of(item), answer))
    return fmean((rouge_n(ours, true, 1), rouge_n(ours, true, 2), rouge_l(ours, true))), True


def temporal_grounding(item: RewardInput, answer: str) -> tuple[float, bool]:
    """Overlap of both {"time": [start, end]} spans, divided by the time from the earlier start to the later end."""
    true, ours = json_span(truth_of(item)), json_span(answer)
    if true is None:
        raise DataError(f'truth: got {item.truth[:80]!r}; want {{"time": [start, end]}}')
    if ours is None:
        return 0.0, False
    shared = max(min(ours[1], true[1]) - max(ours[0], true[0]), 0.0)
    whole = max(ours[1], true[1]) - min(ours[0], true[0])
    return (shared / whole if whole > 0 else 0.0), True


def spatial_grounding(item: RewardInput, answer: str) -> tuple[float, bool]:
    """IoU of the answer's box and the truth's, each given as {"boxes": [x1, y1, x2, y2]}."""
    true, ours, (x, y) = json_box(truth_of(item)), json_box(answer), frame_scale(item)
    if true is None:
        raise DataError(f'truth: got {item.truth[:80]!r}; want {{"boxes": [x1, y1, x2, y2]}}')
    if ours is None:
        return 0.0, False
    return float(iou_matrix([(ours[0] * x, ours[1] * y, ours[2] * x, ours[3] * y)], [true])[0, 0]), True


TASKS: dict[str, Callable[[RewardInput, str], tuple[float, bool]]] = {
    "multiple choice": lambda item, answer: (answer_accuracy(item, answer), True),
    "math": lambda item, answer: (answer_accuracy(item, answer), True),
    "numerical": numerical,
    "regression": regression,
    "ocr": ocr,
    "open-ended": open_ended,
    "temporal grounding": temporal_grounding,
    "spatial grounding": spatial_grounding,
}
"""problem_type -> the accuracy of an answer, and whether it has the form of its task."""


def truth_of(item: RewardInput) -> str:
    text = (parse_truth(item.truth).answer or "").strip()
    if not text:
        raise DataError("truth: empty; want the right answer")
    return text


def true_number(item: RewardInput) -> float:
    found = number(truth_of(item))
    if found is None:
        raise DataError(f"truth: got {item.truth[:80]!r}; want a number")
    return found


def number(text: str) -> float | None:
    """A finite number, with or without commas between its digits, as in "1,250.5"; None for other text."""
    try:
        found = float(plain_minus(text).strip().replace(",", ""))
    except ValueError:
        return None
    return found if isfinite(found) else None


def json_box(text: str) -> Box | None:
    """The box of {"boxes": box}, for a box that `read_box` accepts, such as [x1, y1, x2, y2]; else None."""
    try:
        return read_box(json_entry(text, "boxes"))
    except ValueError:
        return None


def json_span(text: str) -> tuple[float, float] | None:
    """The span of {"time": [start, end]}; None for anything else."""
    found = json_entry(text, "time")
    if not isinstance(found, list) or len(found) != 2 or not all(isinstance(x, float) and isfinite(x) for x in found):
        return None
    return found[0], found[1]


def json_entry(text: str, name: str) -> object:
    """The value of `name` in the JSON object `text`; None if it has no such name, or is not a JSON object."""
    try:
        found = load_json(text)
    except (ValueError, RecursionError):
        return None
    return found.get(name) if isinstance(found, dict) else None
