"""Move boxes together with the image that they are in."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from mars.data.rows.problems import RowError
from mars.data.rows.texts import load_unicode
from mars.rewards import built_in
from mars.rewards.grounding import check_truth, read_truth
from mars.rewards.parsing import is_four_numbers, load_json, parse_truth
from mars.types import THOUSANDTHS, Prompt

READ_FIELDS = ("id", "index", "split", "sources", "image_sizes", "box_space", "choices", "encodings")
WRITTEN_FIELDS = (*READ_FIELDS, "origin", "more_fields")  # every built row gets new values of these
BOXES = ("boxes", "bboxes", "bbox", "box", "bbox_2d")
PLACES = ("points", "point", "keypoints", "masks", "mask", "polygons", "polygon", "segmentation")
Box = tuple[float, float, float, float]
Size = tuple[int, int]
Move = Callable[[Box], Box]
"""A box in the pixels of the image -> the same box in those of the changed image."""


def moved(prompt: Prompt, move: Move) -> str:
    """The truth of a row with its boxes moved; a truth without boxes is returned unchanged.

    The row's boxes are in pixels of its first image or, if `box_space` is norm_1000, in thousandths of its sides.
    They may have any form that the rewards read. The moved boxes are JSON text, in pixels of the changed image. Raises
    RowError for a truth that the rewards would refuse.
    """
    if not has_boxes(prompt.truth):
        return prompt.truth
    size = prompt.sources[0].image.size
    if prompt.extra_info.get("box_space") == "norm_1000":
        return moved_boxes(prompt.truth, move, size, THOUSANDTHS)
    return moved_boxes(prompt.truth, move, size, size)


def has_boxes(truth: str) -> bool:
    """Whether the rewards read a truth as boxes, well formed or not: bare, in tags, or in a fence."""
    inside = parse_truth(truth).boxes_text or ""
    return inside.lstrip().startswith(("[", "{")) or built_in.has_boxes(built_in.default_for(truth))


def moved_fields(prompt: Prompt, move: Move) -> dict[str, Any]:
    """The fields of extra_info that only a reward reads. `move` is applied to the boxes of fields in BOXES.

    Boxes are in pixels of the first image. Raises RowError for malformed boxes, for a field of PLACES that would have
    to be moved, and for a value that JSON cannot hold.
    """
    fields = {
        name: value for name, value in prompt.extra_info.items() if name not in WRITTEN_FIELDS and value is not None
    }
    size = prompt.sources[0].image.size
    some = (0.0, 0.0, size[0] / 3, size[1] / 5)
    for name in fields.keys() & set(PLACES):
        if move(some) != some:
            raise RowError("extra_info", f"extra_info.{name}: cannot be moved with the image; remove it, or give boxes")
    try:
        json.dumps(fields, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RowError("extra_info", f"extra_info: cannot be written as JSON: {error}") from error
    for name in fields.keys() & set(BOXES):
        given = fields[name]
        try:
            text = moved_boxes(given if isinstance(given, str) else json.dumps(given), move, size, size)
        except RowError as error:
            detail = str(error).removeprefix("truth: ")
            raise RowError("extra_info", f"extra_info.{name}: {detail}; it is moved with the image") from error
        fields[name] = text if isinstance(given, str) else json.loads(text)
    return fields


def moved_boxes(truth: str, move: Move, size: Size, frame: Size) -> str:
    """JSON text of the boxes of a truth, moved; other fields of an entry stay.

    size: of the image, in pixels. frame: the (width, height) to which the boxes of `truth` refer. The result is in
    pixels of the changed image, rounded to two decimals; whole numbers are written as integers. Raises RowError for a
    truth that the rewards would refuse.

    >>> moved_boxes('[{"bbox_2d": [0, 0, 500, 200], "label": "car"}]', lambda box: box, (40, 20), (1000, 1000))
    '[{"bbox_2d": [0, 0, 20, 4], "label": "car"}]'
    """
    problem = check_truth(truth, {}, frame)
    if problem is not None:
        raise RowError("truth", problem)
    text = parse_truth(truth).boxes_text or ""
    try:
        given = load_unicode(text)  # unlike `load_json`, leaves whole numbers of other fields whole
    except ValueError as error:
        raise RowError("truth", f"truth: {error}") from error
    is_one = isinstance(given, dict) or is_four_numbers(load_json(text))
    x, y = size[0] / frame[0], size[1] / frame[1]
    boxes = [move((box[0] * x, box[1] * y, box[2] * x, box[3] * y)) for box in read_truth(truth)]
    found = [_with_box(entry, box) for entry, box in zip([given] if is_one else given, boxes, strict=True)]
    return json.dumps(found[0] if is_one else found, ensure_ascii=False)


def _with_box(entry: Any, box: Box) -> Any:
    numbers = [_short(number) for number in box]
    return {**entry, "bbox_2d": numbers} if isinstance(entry, dict) else numbers


def _short(number: float) -> int | float:
    rounded = round(number, 2)
    return int(rounded) if rounded.is_integer() else rounded
