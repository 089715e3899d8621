"""Boxes with labels: of an answer and of a truth, both in the truth's frame."""

from __future__ import annotations

from dataclasses import dataclass

from mars.rewards.box_answers import read_boxes, read_entries
from mars.rewards.grounding import MAX_EXTRA_BOXES, frame_scale, read_truth
from mars.rewards.parsing import Box, ParsedResponse, box_entries, load_json, parse_response, parse_truth
from mars.types import RewardInput


@dataclass(frozen=True)
class LabelledBox:
    """label: in small letters without blanks around it; "" if the entry has none."""

    box: Box
    label: str


@dataclass(frozen=True)
class BoxReading:
    """The boxes that an answer lists, and those of the truth.

    readable: whether the answer has exactly one list, with at most 100 entries more than the truth.
    entries: how many entries this list has.
    boxes: the well-formed boxes of this list; none if the answer is not readable.
    whole: whether every entry of this list is a well-formed box with a label.
    """

    response: ParsedResponse
    readable: bool
    entries: int
    boxes: tuple[LabelledBox, ...]
    whole: bool
    truth: tuple[LabelledBox, ...]

    @property
    def labels_count(self) -> bool:
        """Whether every true box has a label."""
        return all(true.label for true in self.truth)


def read_labelled(item: RewardInput) -> BoxReading:
    """Raises DataError for a malformed truth, or if only one of `response_size` and `truth_size` is known.

    Example: truth [{"bbox_2d": [0, 0, 4, 4], "label": "Car"}] has the label "car"; [[0, 0, 4, 4]] has none.
    """
    true_boxes = read_truth(item.truth)
    true_entries = box_entries(load_json(parse_truth(item.truth).boxes_text or ""))
    truth = tuple(LabelledBox(box, _label(entry)) for box, entry in zip(true_boxes, true_entries, strict=True))
    response, (scale_x, scale_y) = parse_response(item.response), frame_scale(item)
    try:
        boxes = read_boxes(response, len(truth) + MAX_EXTRA_BOXES)
        labels = [_label(entry) for entry in read_entries(response)]
    except ValueError:
        return BoxReading(response, False, 0, (), False, truth)
    scaled = tuple(
        LabelledBox((box[0] * scale_x, box[1] * scale_y, box[2] * scale_x, box[3] * scale_y), label)
        for box, label in zip(boxes, labels, strict=True)
        if not isinstance(box, str)
    )
    whole = len(scaled) == len(boxes) and all(labels)
    return BoxReading(response, True, len(boxes), scaled, whole, truth)


def _label(entry: object) -> str:
    label = entry.get("label") if isinstance(entry, dict) else None
    return label.strip().casefold() if isinstance(label, str) else ""
