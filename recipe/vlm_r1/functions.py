"""The rewards of VLM-R1 for boxes: open-vocabulary detection, and the object that a sentence refers to.

reward.function: recipe/vlm_r1/functions.py:detection
reward.function: recipe/vlm_r1/functions.py:reference
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mars.errors import DataError
from mars.rewards.box_metrics import iou_matrix, mean_average_precision
from mars.rewards.contract import Size
from mars.rewards.grounding import check_truth, read_truth
from mars.rewards.labelled_boxes import BoxReading, LabelledBox, read_labelled
from mars.rewards.parsing import Box, read_blocks
from mars.types import RewardInput, RewardResult


def detection(item: RewardInput) -> RewardResult:
    """score = od_length (0 to 1) + format (0 or 1). accuracy: od_length.

    parts: od_length (mAP times the length factor; 1 if neither answer nor truth has boxes, 0 if only one of them has,
    or if the answer is missing or unreadable), map, length_factor, format. Raises DataError for a malformed truth.
    """
    reading = read_labelled(item)
    precision = class_precision(reading)
    factor = length_factor(reading.entries, len(reading.truth))
    parts = {"od_length": precision * factor, "map": precision, "length_factor": factor}
    parts["format"] = float(_thinks_and_answers(item) and reading.response.fence is not None)
    return RewardResult(parts["od_length"] + parts["format"], parts["od_length"], parts)


def reference(item: RewardInput) -> RewardResult:
    """score = iou (0 to 1) + format (0 or 1), for a truth of one box. accuracy: iou.

    iou: of the answer's first box; 0 without a box. Raises DataError for a truth that is not one box.
    """
    true = the_box(item.truth)
    ours = [entry.box for entry in read_labelled(item).boxes[:1]]
    iou = float(iou_matrix(ours, [true])[0, 0]) if ours else 0.0
    parts = {"iou": iou, "format": float(_thinks_and_answers(item))}
    return RewardResult(iou + parts["format"], iou, parts)


check_detection = check_truth


def check_reference(truth: str, extra_info: Mapping[str, Any], truth_size: Size | None) -> str | None:
    """What is wrong with a truth; None if nothing is. Raises DataError for a truth that is not one box."""
    the_box(truth)
    return check_truth(truth, extra_info, truth_size)


def the_box(truth: str) -> Box:
    boxes = read_truth(truth)
    if len(boxes) != 1:
        raise DataError(f"truth: {len(boxes)} boxes; got {truth[:80]!r}; want the box of one object")
    return boxes[0]


def length_factor(predicted: int, true: int) -> float:
    """min(1, true / predicted); 1 if nothing is predicted.

    >>> length_factor(4, 2), length_factor(1, 2)
    (0.5, 1.0)
    """
    return min(1.0, true / predicted) if predicted else 1.0


def class_precision(reading: BoxReading) -> float:
    """COCO's mAP of an answer: the mean over the truth's labels. If a true box has no label, all boxes are one
    class."""
    if not reading.truth or not reading.entries:
        return float(reading.readable and not reading.truth and not reading.entries)
    labels = sorted({true.label for true in reading.truth}) if reading.labels_count else [None]
    found = [
        mean_average_precision(_of_class(reading.boxes, label), _of_class(reading.truth, label)) for label in labels
    ]
    return sum(found) / len(found)


def _of_class(boxes: Sequence[LabelledBox], label: str | None) -> list[tuple[float, float, float, float]]:
    return [entry.box for entry in boxes if label is None or entry.label == label]


def _thinks_and_answers(item: RewardInput) -> bool:
    return read_blocks(item.response, ("think", "answer")) is not None
