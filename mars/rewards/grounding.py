"""Scores predicted boxes against true boxes (docs/rewards.md).

There are two scorers. They parse and match alike and return the same accuracy and parts; only `score` differs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import log
from typing import Any

from mars.errors import DataError
from mars.rewards.box_answers import read_boxes, read_entries
from mars.rewards.contract import MEAN_IOU, BuiltInReward
from mars.rewards.parsing import (
    Box,
    ParsedResponse,
    box_entries,
    format_score,
    load_json,
    parse_response,
    parse_truth,
    read_box,
)
from mars.types import THOUSANDTHS, RewardInput, RewardResult

# An answer with more extra boxes than this is not matched and has accuracy 0: matching takes cubic time.
MAX_EXTRA_BOXES = 100
# Matching this many takes up to half a second.
MAX_TRUE_BOXES = 1000
# A corner of a true box may be this many pixels outside of the image.
ROUNDING = 0.1

_IF_THOUSANDTHS = "; if the boxes are in thousandths of the image's sides, set extra_info.box_space to norm_1000"

# Constants of the public code's reward.
_MIN_IOU = 0.3
_CROWD_BONUS = 0.3
_EXTRA_PENALTY = 0.5
_MAX_PENALTY = 1.0


def score_grounding(item: RewardInput) -> RewardResult:
    """score = format (0 to 0.75) + accuracy (0 to 1). The `strict` scorer: the paper's mean IoU.

    accuracy: the mean IoU over the true boxes. Predicted and true boxes are matched one to one so that the total IoU
    is largest; a true box without a match counts 0. Labels are not compared.
    - More predictions than true boxes cost nothing, as in the paper. The part `extra_boxes` shows whether a policy
      learns to predict too many: the number of extra predictions divided by the number of true boxes, or by 1 if
      there is none. With more than `MAX_EXTRA_BOXES` extra predictions, accuracy and `extra_boxes` are 0.
    - A malformed box (NaN, inverted, no area, not four numbers) matches nothing; the others still count.
    - An empty scene (truth "[]"): accuracy 1 for an empty list, or for a sentence outside a fence that says that
      nothing is there ("There are no persons."). Any other answer: accuracy 0.
    - Predictions are scaled from `response_size` to `truth_size`; without images (both None) they are not scaled.

    parts: format, accuracy, extra_boxes, and compat (`compat_reward` of the same answer).
    Raises DataError when the truth is malformed or only one of the sizes is known.

    Example: truth [[0, 0, 10, 10], [20, 0, 30, 10]], answer [[0, 0, 10, 5]]: IoU 0.5 and 0, accuracy 0.25.
    """
    parts = _parts(item)
    return RewardResult(score=parts["format"] + parts["accuracy"], accuracy=parts["accuracy"], parts=parts)


def score_grounding_compat(item: RewardInput) -> RewardResult:
    """score = format (0 to 0.75) + the part `compat` (at least 0, at most 1 + 0.3 ln n_gt). The `compat` scorer.

    compat: the arithmetic of the paper's public code, see `compat_reward`. Accuracy, parts and errors are the same as
    in `score_grounding`.
    """
    parts = _parts(item)
    return RewardResult(score=parts["format"] + parts["compat"], accuracy=parts["accuracy"], parts=parts)


def matched_ious(predicted: Sequence[Box], truth: Sequence[Box]) -> list[float]:
    """IoU of the matched pairs: min(n_pred, n_gt) numbers in [0, 1].

    The Hungarian method finds the one-to-one matching with the largest total IoU.

    >>> matched_ious([(0, 0, 10, 10), (0, 0, 10, 9)], [(0, 0, 10, 10)])
    [1.0]
    """
    if not predicted or not truth:
        return []
    # Not at the top: the check of truths needs neither numpy nor scipy.
    from scipy.optimize import linear_sum_assignment

    from mars.rewards.box_metrics import iou_matrix

    iou = iou_matrix(predicted, truth)
    return iou[linear_sum_assignment(iou, maximize=True)].tolist()


def mean_iou(ious: Sequence[float], num_true: int) -> float:
    """The paper's reward: sum of the matched IoUs over the number of true boxes, num_true. In [0, 1].

    num_true must be at least 1.

    >>> mean_iou([1.0], 2)
    0.5
    """
    return min(sum(ious) / num_true, 1.0)


def compat_reward(ious: Sequence[float], num_predicted: int, num_true: int) -> float:
    """The public code's reward for matched IoUs. num_true must be at least 1. In [0, 1 + 0.3 ln num_true].

    (sum of the IoUs above 0.3) / num_true * (1 + 0.3 ln num_true) - min(0.5 extra / num_true, 1),    at least 0

    extra: num_predicted - num_true, at least 0. Boxes are matched first; then pairs with an IoU of 0.3 or less are
    left out. Constants: the public code of the paper (docs/rewards.md).

    >>> round(compat_reward([0.8, 0.3], num_predicted=2, num_true=2), 6)  # 0.8 / 2 * (1 + 0.3 ln 2)
    0.483178
    >>> round(compat_reward([0.8], num_predicted=2, num_true=1), 6)  # 0.8 - 0.5
    0.3
    """
    reward = sum(iou for iou in ious if iou > _MIN_IOU) / num_true * (1 + _CROWD_BONUS * log(num_true))
    extra = max(num_predicted - num_true, 0)
    return max(reward - min(_EXTRA_PENALTY * extra / num_true, _MAX_PENALTY), 0.0)


def _parts(item: RewardInput) -> dict[str, float]:
    truth = read_truth(item.truth)
    scale_x, scale_y = frame_scale(item)
    response = parse_response(item.response)
    entries = _boxes(response, limit=len(truth) + MAX_EXTRA_BOXES)
    if entries is None:
        accuracy, compat, extra = 0.0, 0.0, 0
    elif not truth:
        accuracy = compat = float(not entries)
        extra = len(entries)
    else:
        boxes = [(x1 * scale_x, y1 * scale_y, x2 * scale_x, y2 * scale_y) for x1, y1, x2, y2 in filter(None, entries)]
        ious = matched_ious(boxes, truth)
        accuracy, compat = mean_iou(ious, len(truth)), compat_reward(ious, len(entries), len(truth))
        extra = max(len(entries) - len(truth), 0)
    return {
        "format": format_score(response, wants_fence=True),
        "accuracy": accuracy,
        "compat": compat,
        "extra_boxes": extra / max(len(truth), 1),
    }


def _boxes(response: ParsedResponse, limit: int) -> list[Box | None] | None:
    """The boxes of an answer, with None for each malformed entry. Returns None unless there is exactly one
    list, of at most `limit` entries."""
    try:
        return [None if isinstance(box, str) else box for box in read_boxes(response, limit)]
    except ValueError:
        return None


def read_truth(truth: str) -> list[Box]:
    """The boxes of a ground truth: JSON text, bare, in `<answer>` tags or in a ```json fence. Raises DataError."""
    try:
        entries = box_entries(load_json(parse_truth(truth).boxes_text or ""))
    except (ValueError, RecursionError) as error:
        raise DataError(f"truth: {error}; got {truth[:80]!r}; want JSON such as [[x1, y1, x2, y2]]") from error
    if len(entries) > MAX_TRUE_BOXES:
        raise DataError(f"truth: {len(entries)} boxes; want at most {MAX_TRUE_BOXES}")
    boxes = []
    for number, entry in enumerate(entries, start=1):
        try:
            boxes.append(read_box(entry))
        except ValueError as error:
            turned = (
                "; [x, y, width, height] is written [x, y, x + width, y + height]" if "inverted" in str(error) else ""
            )
            raise DataError(f"truth: box {number} of {len(entries)} {error}; got {str(entry)[:80]}{turned}") from error
    return boxes


def check_truth(truth: str, extra_info: Mapping[str, Any], truth_size: tuple[int, int] | None) -> str | None:
    """What is wrong with a truth, or None. Refuses a malformed truth, and a box outside the image.

    Also refuses boxes that are shares of the image's sides (0 to 1): no answer in pixels could match them.
    truth_size: (width, height) of the image; None: no box is outside.

    A corner may be ROUNDING pixels outside: x + w of a COCO box may be 640.0000001 in an image of width 640.
    """
    try:
        boxes = read_truth(truth)
    except DataError as error:
        return str(error)
    sides = [side for box in boxes for side in box]
    if sides and min(sides) >= 0 and max(sides) <= 1 and not all(side.is_integer() for side in sides):
        box = f"[{', '.join(f'{side:g}' for side in boxes[0])}]"
        return (
            f"truth: boxes of less than a pixel, as if they were shares of the image's width and height; got {box}; "
            "multiply x by the width and y by the height, or both by 1000 with box_space norm_1000"
        )
    if truth_size is None:
        return None
    width, height = truth_size
    for number, (x1, y1, x2, y2) in enumerate(boxes, start=1):
        if min(x1, y1) < -ROUNDING or x2 > width + ROUNDING or y2 > height + ROUNDING:
            box = f"[{x1:g}, {y1:g}, {x2:g}, {y2:g}]"
            remedy = "" if truth_size == THOUSANDTHS or max(sides) > 1000 else _IF_THOUSANDTHS
            return f"truth: box {number} of {len(boxes)} is outside the image of {width} x {height}; got {box}{remedy}"
    return None


def frame_scale(item: RewardInput) -> tuple[float, float]:
    """Factors of x and y from the frame of the response's boxes to that of the truth's; 1 and 1 without images.

    Raises DataError if only one of the two sizes is known.
    """
    ours, true = item.response_size, item.truth_size
    if ours is None and true is None:
        return 1.0, 1.0
    if ours is None or true is None or min(*ours, *true) <= 0:
        raise DataError(f"response_size and truth_size must both be known and positive; got {ours} and {true}")
    return true[0] / ours[0], true[1] / ours[1]


def perfect_answer(item: RewardInput) -> str:
    """A response with the true boxes, scaled from `truth_size` to `response_size`, as the prompt template asks for it.

    Raises DataError for a malformed truth.
    Example: truth [[0, 0, 640, 512]] of a 1280x1024 image that the model sees as 1120x896 -> [0, 0, 560, 448].
    """
    boxes = [list(box) for box in read_truth(item.truth)]
    if item.truth_size is not None and item.response_size is not None:
        scale = [ours / true for ours, true in zip(item.response_size, item.truth_size, strict=True)] * 2
        boxes = [[side * factor for side, factor in zip(box, scale, strict=True)] for box in boxes]
    answer = json.dumps([{"bbox_2d": box, "label": "object"} for box in boxes])
    return f"<think>The truth.</think><answer>```json\n{answer}\n```</answer>"


def is_readable(response: str) -> bool:
    """Whether `read_entries` finds one list of boxes in the response. The boxes may still be malformed."""
    try:
        read_entries(parse_response(response))
    except ValueError:
        return False
    return True


def highest_compat(truth: str) -> float:
    """`compat_reward` of a perfect answer: 1 + 0.3 ln(number of true boxes); 1 for an empty scene."""
    num_true = max(len(read_truth(truth)), 1)
    return compat_reward([1.0] * num_true, num_predicted=num_true, num_true=num_true)


def _import_scipy() -> None:
    """Imports scipy early: this takes a second, which must not count towards the deadline of the first answer."""
    matched_ious([(0, 0, 1, 1)], [(0, 0, 1, 1)])


GROUNDING = BuiltInReward(
    name="grounding",
    score=score_grounding,
    compat=score_grounding_compat,
    check_truth=check_truth,
    perfect_answer=perfect_answer,
    is_readable=is_readable,
    parts=("format", "accuracy", "compat", "extra_boxes"),
    metric=MEAN_IOU,
    template="grounding",
    has_boxes=True,
    highest_compat=highest_compat,
    prepare=_import_scipy,
)
