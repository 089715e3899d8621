"""The rewards of OneThinker's tasks on images, by the row's `extra_info.problem_type`.

reward.function: recipe/ema_grpo/rewards.py:score
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from statistics import fmean

from mars.errors import DataError
from mars.rewards.box_metrics import iou_matrix
from mars.rewards.grounding import frame_scale
from mars.rewards.parsing import Box, load_json, parse_response, parse_truth, read_blocks, read_box
from mars.rewards.text_metrics import edit_distance
from mars.rewards.vqa import answer_accuracy
from mars.types import RewardInput, RewardResult

MAX_WORDS = 1000  # of a text that is compared word by word: the time grows with the product of both lengths


def score(item: RewardInput) -> RewardResult:
    """0.9 accuracy + 0.1 format + structure. format: think, then answer. structure: 0.5 if the format is right and the
    answer has the form of its task. Raises DataError for an unknown task and for a malformed truth."""
    task = TASKS.get(str(item.extra_info.get("problem_type")))
    if task is None:
        raise DataError(
            f"extra_info.problem_type: got {item.extra_info.get('problem_type')!r}; give {', '.join(TASKS)}"
        )
    answer = parse_response(item.response).answer
    accuracy, has_form = (0.0, False) if answer is None else task(item, answer.strip())
    form = float(read_blocks(item.response, ("think", "answer")) is not None)
    parts = {"accuracy": accuracy, "format": form, "structure": 0.5 * form * has_form}
    return RewardResult(0.9 * accuracy + 0.1 * form + parts["structure"], accuracy, parts)


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


def spatial_grounding(item: RewardInput, answer: str) -> tuple[float, bool]:
    """IoU of the boxes in {"boxes": [x1, y1, x2, y2]}."""
    true, ours, (x, y) = json_box(truth_of(item)), json_box(answer), frame_scale(item)
    if true is None:
        raise DataError(f'truth: got {item.truth[:80]!r}; want {{"boxes": [x1, y1, x2, y2]}}')
    if ours is None:
        return 0.0, False
    return float(iou_matrix([(ours[0] * x, ours[1] * y, ours[2] * x, ours[3] * y)], [true])[0, 0]), True


def short_answer(item: RewardInput, answer: str) -> tuple[float, bool]:
    return answer_accuracy(item, answer), True


TASKS: dict[str, Callable[[RewardInput, str], tuple[float, bool]]] = {
    "multiple choice": short_answer,
    "math": short_answer,
    "numerical": numerical,
    "regression": regression,
    "ocr": ocr,
    "spatial grounding": spatial_grounding,
}
"""problem_type -> the accuracy of an answer, and whether it has the form of its task."""


def truth_of(item: RewardInput) -> str:
    """Raises DataError for an empty truth."""
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
    """A finite number, with or without commas between its digits; None for other text.

    >>> number("1,250.5"), number("about 3"), number("inf")
    (1250.5, None, None)
    """
    try:
        found = float(text.strip().replace(",", ""))
    except ValueError:
        return None
    return found if isfinite(found) else None


def json_box(text: str) -> Box | None:
    """The box of {"boxes": [x1, y1, x2, y2]}; None for anything else."""
    try:
        found = load_json(text)
        return read_box(found.get("boxes")) if isinstance(found, dict) else None
    except (ValueError, RecursionError):
        return None
