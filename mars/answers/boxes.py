"""Find boxes in truths and responses, for drawing only. Scoring uses the strict parser of mars/rewards."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mars.answers.record import Answer
from mars.types import View

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 as fractions of the frame's width and height, in [0, 1]."""

# Text and boxes beyond these limits are not drawn.
_MAX_CHARACTERS = 20_000
_MAX_BOXES = 40


def find_boxes(text: str, size: tuple[int, int] | None) -> list[Box]:
    """The boxes in `text`, as fractions of their frame.

    size: width and height of the frame in the unit of the boxes; None if not known, which gives [].
    Searches the last <answer> (without an <answer>: the whole text) for the last ```json fence or a bare JSON list.
    A box is {"bbox_2d": [x1, y1, x2, y2]}, {"bbox": [x1, y1, x2, y2]} or [x1, y1, x2, y2].

    >>> find_boxes('[{"bbox_2d": [10, 20, 30, 40], "label": "person"}]', (100, 100))
    [(0.1, 0.2, 0.3, 0.4)]
    """
    if size is None or min(size) <= 0:
        return []
    try:
        items = json.loads(_json_part(_answer(text)[:_MAX_CHARACTERS]))
    except (ValueError, RecursionError):
        return []
    if isinstance(items, dict) or _is_box(items):
        items = [items]
    if not isinstance(items, list):
        return []
    boxes = (_relative(item, size) for item in items[:_MAX_BOXES])
    return [box for box in boxes if box is not None]


def _answer(text: str) -> str:
    """The text of the last <answer>, because <think> may have boxes too; the whole text if there is no <answer>."""
    return text.rpartition("<answer>")[2].partition("</answer>")[0]


def _json_part(text: str) -> str:
    fence = text.rfind("```json")
    if fence >= 0:
        start = fence + len("```json")
        end = text.find("```", start)
        return text[start : end if end >= 0 else len(text)]
    for opening, closing in (("[", "]"), ("{", "}")):
        start, end = text.find(opening), text.rfind(closing)
        if 0 <= start < end:
            return text[start : end + 1]
    return text


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(type(number) in (int, float) for number in value)


def _relative(item: Any, size: tuple[int, int]) -> Box | None:
    if isinstance(item, dict):
        item = item.get("bbox_2d", item.get("bbox"))
    if not _is_box(item):
        return None
    try:
        x1, y1, x2, y2 = (number / side for number, side in zip(item, (*size, *size), strict=True))
    except OverflowError:  # an integer too large for a float
        return None
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        return None
    x1, y1, x2, y2 = (min(max(share, 0.0), 1.0) for share in (x1, y1, x2, y2))
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


@dataclass(frozen=True)
class SourceBoxes:
    """What to draw on the image of one source: boxes of the truth, of the answers to all sources together ("multi"),
    and of the answers to this source alone ("mono")."""

    truth: list[Box]
    multi: list[Box]
    mono: list[Box]


def boxes_by_source(answers: Sequence[Answer]) -> dict[str, SourceBoxes]:
    """Source -> the boxes to draw on its image. answers: to one question. Answers to extra requests are left out."""
    first = answers[0]
    truth = find_boxes(first.truth, first.truth_size)
    to_views = [answer for answer in answers if answer.extra is None]

    def of_view(view: View) -> list[Box]:
        shown = (answer for answer in to_views if answer.view == view)
        return [box for answer in shown for box in find_boxes(answer.text, answer.response_size)]

    multi = of_view(None)
    return {source.name: SourceBoxes(truth, multi, of_view((source.name,))) for source in first.sources}
