"""The benchmark's reward: 1 for a right answer, 0 for any other.

reward.function: recipe/effect/reward.py:answer
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mars.data.synthetic.benchmark import BINS, GRID, MOST_FIGURES, RIGHT_IOU, box_iou
from mars.errors import DataError
from mars.rewards.contract import Size
from mars.rewards.parsing import parse_response
from mars.types import RewardInput, RewardResult

LARGEST = {"where": GRID**2, "count": MOST_FIGURES}
MAX_CHARS = 16  # "0 0 8 8" has seven; a longer answer is not read


def answer(item: RewardInput) -> RewardResult:
    """score = accuracy = 1 if the response has one `<answer>` and it is right for the row's task, else 0.

    Right is, for the tasks "where" and "count", the truth's number, and for "box" an IoU >= 0.5 with the true box.
    Numbers are plain decimal digits, separated by blanks. Raises DataError for a malformed truth or an unknown task.

    >>> answer(RewardInput("", None, "<answer>0 0 4 4</answer>", "0 0 4 2", None, None, {"task": "box"})).score
    1.0
    """
    task, truth = _read_truth(item.truth, item.extra_info)
    given = _numbers(parse_response(item.response).answer or "")
    right = given == truth
    if task == "box":
        right = _is_box(given) and box_iou(given, truth) >= RIGHT_IOU
    return RewardResult(score=float(right), accuracy=float(right), parts={})


def check_answer(truth: str, extra_info: Mapping[str, Any], truth_size: Size | None) -> str | None:
    """Raises DataError for a truth that does not fit the row's task."""
    _read_truth(truth, extra_info)
    return None


def _read_truth(truth: str, extra_info: Mapping[str, Any]) -> tuple[str, tuple[int, ...]]:
    task, numbers = extra_info.get("task"), _numbers(truth)
    if task == "box":
        fits = _is_box(numbers)
    elif task in LARGEST:
        fits = len(numbers) == 1 and 1 <= numbers[0] <= LARGEST[task]
    else:
        raise DataError(f"extra_info.task: unknown; got {task!r}; want where, count or box")
    if not fits:
        raise DataError(f"truth: no answer to the task {task}; got {truth[:80]!r}; want what `mars data synth` writes")
    return task, numbers


def _is_box(numbers: tuple[int, ...]) -> bool:
    """Whether the numbers are a box: left, top, right, bottom in eighths of the image, left < right, top < bottom."""
    if len(numbers) != 4:
        return False
    left, top, right, bottom = numbers
    return left < right <= BINS and top < bottom <= BINS


def _numbers(text: str) -> tuple[int, ...]:
    """The numbers in a text of ASCII digits and blanks, at most MAX_CHARS characters; () for any other text."""
    words = text.split(" ") if len(text) <= MAX_CHARS else []
    words = [word for word in words if word]
    if not all(word.isascii() and word.isdigit() for word in words):
        return ()
    return tuple(map(int, words))
