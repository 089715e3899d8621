"""The criterion-driven reward of Vision-R1 for detection: recall, precision and form, stricter later in training.

reward.function: recipe/vision_r1_human_free/functions.py:score
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from mars.rewards.box_metrics import giou_matrix
from mars.rewards.grounding import check_truth
from mars.rewards.labelled_boxes import BoxReading, LabelledBox, read_labelled
from mars.types import RewardInput, RewardResult


@dataclass(frozen=True)
class Criterion:
    """found: a true box is found if its match has a GIoU above this. recall, precision: (low, high) of `stepped`."""

    found: float
    recall: tuple[float, float]
    precision: tuple[float, float]


EARLY = Criterion(found=0.5, recall=(0.5, 0.75), precision=(0.5, 0.75))
LATE = Criterion(found=0.75, recall=(0.5, 0.75), precision=(0.75, 0.9))
LATE_FROM_STEP = 1500


def score(item: RewardInput) -> RewardResult:
    """score = recall + precision + format, each in [0, 1]. accuracy: the share of true boxes that are found.

    In a scene without objects, the three parts and accuracy are 1 for an answer that says so, else 0.
    The criterion is EARLY before training step 1500, and LATE from it on. Raises DataError for a malformed truth.
    """
    return scored(read_labelled(item), LATE if item.step >= LATE_FROM_STEP else EARLY)


check_score = check_truth


def scored(reading: BoxReading, criterion: Criterion) -> RewardResult:
    if not reading.truth or not reading.boxes:
        right = float(not reading.truth and reading.readable and reading.entries == 0)
        return RewardResult(3 * right, right, {"recall": right, "precision": right, "format": right})
    quality = matched_quality(reading.boxes, reading.truth)
    found = sum(stepped(one, criterion.found, criterion.found) for one in quality) / len(reading.truth)
    parts = {
        "recall": stepped(found, *criterion.recall),
        "precision": sum(stepped(one, *criterion.precision) for one in quality) / len(quality),
        "format": float(reading.whole),
    }
    return RewardResult(sum(parts.values()), found, parts)


def matched_quality(boxes: Sequence[LabelledBox], truth: Sequence[LabelledBox]) -> list[float]:
    """GIoU of each matched pair: min(len(boxes), len(truth)) numbers.

    Boxes are matched one to one with the smallest total cost. The cost of a pair is the L1 distance of the boxes in
    pixels, minus 1 if the labels agree, minus the GIoU.
    """
    ours, true = [entry.box for entry in boxes], [entry.box for entry in truth]
    distance = np.abs(np.array(ours)[:, None] - np.array(true)[None, :]).sum(-1)
    agree = np.array([[one.label == other.label for other in truth] for one in boxes])
    quality = giou_matrix(ours, true)
    return quality[linear_sum_assignment(distance - agree - quality)].tolist()


def stepped(value: float, low: float, high: float) -> float:
    """0 below `low`, 1 above `high`, otherwise the value itself.

    >>> stepped(0.4, 0.5, 0.75), stepped(0.6, 0.5, 0.75), stepped(0.8, 0.5, 0.75)
    (0.0, 0.6, 1.0)
    """
    return 0.0 if value < low else 1.0 if value > high else value
