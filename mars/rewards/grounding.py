"""Scores boxes against boxes: format plus mean IoU over the ground truth ("Grounding", docs/method.md section 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mars.errors import DataError
from mars.rewards.answer import (
    Box,
    box_entries,
    format_score,
    load_json,
    parse_boxes,
    parse_response,
    parse_truth,
    read_box,
)
from mars.types import RewardInput, RewardResult

# An answer with this many boxes more than the truth is not looked at: matching takes cubic time.
MAX_EXTRA_BOXES = 100


def score_grounding(item: RewardInput) -> RewardResult:
    """score = format (0 to 0.75) + accuracy (0 to 1). The `strict` scorer, the paper's formula.

    accuracy: the mean over the ground-truth boxes of the IoU with the predicted box that one-to-one matching (of
    largest total IoU) gives them, 0 for those left over. Labels are not compared.
    - Predictions beyond the truth's number cost nothing, as in the paper; the part `extra_boxes`
      (their number over the number of true boxes) shows a policy that learns to spray them. More than
      `MAX_EXTRA_BOXES` of them: accuracy 0.
    - A malformed box (NaN, inverted, no area, not four numbers) matches nothing; the others still count.
    - An empty scene (truth "[]"): accuracy 1 for an empty list, 0 for boxes and for text that is no list.
    - Predictions are scaled from `response_size` to `truth_size`; without images (both None) they stay.

    Raises DataError when the truth is malformed or only one of the sizes is known.

    Example: truth [[0, 0, 10, 10], [20, 0, 30, 10]], answer [[0, 0, 10, 5]]: IoU 0.5 and 0, accuracy 0.25.
    """
    truth = read_truth(item.truth)
    scale_x, scale_y = _scale(item)
    response = parse_response(item.response)
    entries = parse_boxes(response.boxes_text, limit=len(truth) + MAX_EXTRA_BOXES)
    if entries is None:
        accuracy, extra = 0.0, 0
    else:
        boxes = [(x1 * scale_x, y1 * scale_y, x2 * scale_x, y2 * scale_y) for x1, y1, x2, y2 in filter(None, entries)]
        accuracy = mean_iou(boxes, truth) if truth else float(not entries)
        extra = max(len(entries) - len(truth), 0)
    form = format_score(response, wants_fence=True)
    parts = {"format": form, "accuracy": accuracy, "extra_boxes": extra / max(len(truth), 1)}
    return RewardResult(score=form + accuracy, accuracy=accuracy, parts=parts)


def mean_iou(predicted: Sequence[Box], truth: Sequence[Box]) -> float:
    """Mean over `truth` (not empty) of the matched IoU; Hungarian method, so no greedy choice costs a better total.

    >>> mean_iou([(0, 0, 10, 10)], [(0, 0, 10, 10), (50, 50, 60, 60)])
    0.5
    """
    if not predicted:
        return 0.0
    import numpy as np  # here, so that checking truths does not load numpy and scipy
    from scipy.optimize import linear_sum_assignment

    ours, true = np.array(predicted)[:, None], np.array(truth)[None, :]
    sides = np.minimum(ours[..., 2:], true[..., 2:]) - np.maximum(ours[..., :2], true[..., :2])
    shared = np.clip(sides, 0, None).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (ours, true)]
    iou = shared / (areas[0] + areas[1] - shared)
    rows, columns = linear_sum_assignment(iou, maximize=True)
    return min(float(iou[rows, columns].sum()) / len(truth), 1.0)


def read_truth(truth: str) -> list[Box]:
    """The boxes of a ground truth: JSON text, bare, in `<answer>` tags or in a ```json fence. Raises DataError."""
    try:
        entries = box_entries(load_json(parse_truth(truth).boxes_text or ""))
    except (ValueError, RecursionError) as error:
        raise DataError(f"truth: {error}; got {truth[:80]!r}; want JSON such as [[x1, y1, x2, y2]]") from error
    boxes = []
    for number, entry in enumerate(entries, start=1):
        try:
            boxes.append(read_box(entry))
        except ValueError as error:
            raise DataError(f"truth: box {number} of {len(entries)} {error}; got {str(entry)[:80]}") from error
    return boxes


def check_truth(truth: str, extra_info: Mapping[str, Any], truth_size: tuple[int, int] | None) -> str | None:
    """What is wrong with a truth, or None: malformed, or a box outside the image of `truth_size` (width, height)."""
    try:
        boxes = read_truth(truth)
    except DataError as error:
        return str(error)
    if truth_size is None:
        return None
    width, height = truth_size
    for number, (x1, y1, x2, y2) in enumerate(boxes, start=1):
        if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
            box = f"[{x1:g}, {y1:g}, {x2:g}, {y2:g}]"
            return f"truth: box {number} of {len(boxes)} is outside the image of {width} x {height}; got {box}"
    return None


def _scale(item: RewardInput) -> tuple[float, float]:
    ours, true = item.response_size, item.truth_size
    if ours is None and true is None:
        return 1.0, 1.0
    if ours is None or true is None or min(*ours, *true) <= 0:
        raise DataError(f"response_size and truth_size must both be known and positive; got {ours} and {true}")
    return true[0] / ours[0], true[1] / ours[1]
