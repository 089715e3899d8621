"""Measures of two lists of boxes. Boxes are (x1, y1, x2, y2) with x1 < x2 and y1 < y2, both lists in one frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mars.rewards.parsing import Box

COCO_THRESHOLDS = tuple(0.5 + 0.05 * k for k in range(10))
"""0.5, 0.55, …, 0.95: the IoU thresholds of COCO's average precision."""


def iou_matrix(ours: Sequence[Box], true: Sequence[Box]) -> np.ndarray:
    """IoU of each pair: [len(ours), len(true)], in [0, 1].

    >>> iou_matrix([(0, 0, 10, 10)], [(0, 0, 10, 5), (20, 0, 30, 10)]).tolist()
    [[0.5, 0.0]]
    """
    return _iou_and_union(ours, true)[0]


def giou_matrix(ours: Sequence[Box], true: Sequence[Box]) -> np.ndarray:
    """Generalised IoU (arXiv 1902.09630) of each pair: [len(ours), len(true)], in (-1, 1].

    It is IoU - (hull - union) / hull. hull: the area of the smallest box around both.

    >>> giou_matrix([(0, 0, 10, 10)], [(0, 0, 10, 10), (30, 0, 40, 10)]).tolist()  # 0 - (400 - 200) / 400
    [[1.0, -0.5]]
    """
    iou, union = _iou_and_union(ours, true)
    one, other = _pairs(ours, true)
    hull = (np.maximum(one[..., 2:], other[..., 2:]) - np.minimum(one[..., :2], other[..., :2])).prod(-1)
    return iou - (hull - union) / hull


def average_precision(ours: Sequence[Box], true: Sequence[Box], threshold: float) -> float:
    """COCO's average precision of one class in one image, if all boxes have the same confidence. true: at least one.

    Each box, in order, takes the free true box with which it has the largest IoU, if this IoU is at least `threshold`.
    The result is the mean, over the recalls 0, 0.01, …, 1, of the best precision at this recall or above.

    >>> round(average_precision([(0, 0, 10, 10)], [(0, 0, 10, 10), (20, 0, 30, 10)], 0.5), 6)  # 1 up to recall 0.5
    0.50495
    """
    if not ours:
        return 0.0
    iou = iou_matrix(ours, true)
    hits = np.zeros(len(ours))
    for row, candidates in enumerate(iou):
        best = int(candidates.argmax())
        if candidates[best] >= threshold:
            hits[row] = 1
            iou[:, best] = -1
    found = hits.cumsum()
    recall, precision = found / len(true), found / np.arange(1, len(ours) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    return float(np.append(precision, 0.0)[at].mean())


def mean_average_precision(ours: Sequence[Box], true: Sequence[Box]) -> float:
    """The mean of `average_precision` over COCO_THRESHOLDS."""
    return float(np.mean([average_precision(ours, true, threshold) for threshold in COCO_THRESHOLDS]))


def union_iou(ours: Sequence[Box], true: Sequence[Box]) -> float:
    """IoU of two areas: what any box of `ours` covers, and what any box of `true` covers. 0 if one list is empty.

    >>> union_iou([(0, 0, 6, 10), (4, 0, 10, 10)], [(0, 0, 10, 20)])
    0.5
    """
    if not ours or not true:
        return 0.0
    boxes = np.array([*ours, *true], dtype=float)
    xs, ys = np.unique(boxes[:, 0::2]), np.unique(boxes[:, 1::2])
    cells = np.outer(np.diff(xs), np.diff(ys))
    covered = []
    for some in (ours, true):
        inside = np.zeros(cells.shape, dtype=bool)
        for x1, y1, x2, y2 in some:
            (left, right), (top, bottom) = np.searchsorted(xs, (x1, x2)), np.searchsorted(ys, (y1, y2))
            inside[left:right, top:bottom] = True
        covered.append(inside)
    one, other = covered
    return float(cells[one & other].sum() / cells[one | other].sum())


def _pairs(ours: Sequence[Box], true: Sequence[Box]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(ours)[:, None], np.array(true)[None, :]


def _iou_and_union(ours: Sequence[Box], true: Sequence[Box]) -> tuple[np.ndarray, np.ndarray]:
    one, other = _pairs(ours, true)
    sides = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    shared = np.clip(sides, 0, None).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (one, other)]
    union = areas[0] + areas[1] - shared
    return np.clip(shared / union, 0, 1), union
