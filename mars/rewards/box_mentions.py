"""Whether a text may name boxes or points, in its answer or elsewhere. In doubt, the result is yes."""

from __future__ import annotations

import re

from mars.rewards.box_answers import read_boxes
from mars.rewards.parsing import MAX_JSON_CHARS, parse_response

# Every repetition is possessive or bounded, so that a search takes linear time.
_NUMBER = r"(?<![\w.])[-+−]?(?:\d++(?:\.\d*+)?|\.\d++)(?:e[-+]?\d{1,3}+)?(?:px)?(?!\w)"
# What may stand between two coordinates: brackets, quotes, commas, and words such as the key in `"y1": 20`.
_SIDE = r"(?:[xy](?:_?(?:min|max|\d))?|left|right|top|bottom|width|height|[wh]|and|to)"
_BETWEEN = rf"[^\w.]{{1,40}}+(?:{_SIDE}[^\w.]{{1,40}}+)?"
_FOUR_NUMBERS = re.compile(rf"{_NUMBER}(?:{_BETWEEN}{_NUMBER}){{3}}", re.I)
# "[10, 20]": two numbers or more in brackets.
_IN_BRACKETS = re.compile(rf"[\[(]\W{{0,8}}?{_NUMBER}[^\w.]{{0,8}}?,[^\w.]{{0,8}}?{_NUMBER}", re.I)


def mentions_boxes(text: str) -> bool:
    """Whether `read_boxes` reads a box in the answer, or the text has coordinates anywhere: four numbers with only
    signs, blanks and names of sides between them, or two in brackets.

    >>> [mentions_boxes(text) for text in ("left 10, top 20, right 30, bottom 40", "the point (3, 4)", "3 of 4 dogs")]
    [True, True, False]
    """
    return bool(_IN_BRACKETS.search(text) or _FOUR_NUMBERS.search(text)) or _has_box(text)


def _has_box(text: str) -> bool:
    try:
        boxes = read_boxes(parse_response(text), MAX_JSON_CHARS)
    except ValueError:
        return False
    return any(not isinstance(box, str) for box in boxes)
