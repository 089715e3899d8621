"""Parses `<think>…</think><answer>…</answer>` and boxes in JSON, in linear time.

Model text is untrusted. It is only searched for substrings and parsed as JSON with limits on length, nesting and
numbers; there is no regular expression that could backtrack.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 with x1 < x2 and y1 < y2, in the frame of the text."""

# Limits on what is parsed, far above any real answer. They bound time and memory.
MAX_JSON_CHARS = 100_000
MAX_NESTING = 32
MAX_COORDINATE = 1e6

_MINUS_SIGNS = dict.fromkeys(map(ord, "−‐‑‒–—﹣－"), "-")
_FENCE_OPEN = "```json"
_FENCE_CLOSE = "```"
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes(set(range(256)) - set(_STEP))


@dataclass(frozen=True)
class ParsedResponse:
    """The parts of one response. A part is None unless the response has it exactly once.

    think, answer: the text between the tags.
    fence: the text of the answer's only ```json fence.
    boxes_text: the text of the boxes.
        If the answer has a ```json fence: `fence`.
        If it has one fence of another kind: the fence's text if its language is left out or is "JSON" or "Json", else
        None.
        If it has several fences of other kinds: None.
        If it has no fence: the whole answer.
    fenced: whether boxes_text stood in a fence.
    """

    think: str | None
    answer: str | None
    fence: str | None
    boxes_text: str | None
    fenced: bool


def parse_response(text: str) -> ParsedResponse:
    """The think and the answer of a response, in any order.

    Tags are exact and lower-case. Each counts only if there is one opening and, after it, one closing tag: text with
    two answers has no answer. Tags inside a well-formed think are ignored. Raises nothing.

    >>> parse_response("<think>a car? <answer>no</answer></think><answer>yes</answer>").answer
    'yes'
    >>> parse_response("<answer>yes</answer><answer>no</answer>").answer is None
    True
    """
    think = _only_block(text, "think")
    if think is not None:
        start, end = think
        # The space keeps the text before and after the think from joining into a new tag.
        text, thought = f"{text[: start - len('<think>')]} {text[end + len('</think>') :]}", text[start:end]
    else:
        thought = None
    block = _only_block(text, "answer")
    if block is None:
        return ParsedResponse(thought, None, None, None, False)
    answer = text[block[0] : block[1]]
    fence = _only_fence(answer)
    if _FENCE_OPEN in answer:
        return ParsedResponse(thought, answer, fence, fence, True)
    if _FENCE_CLOSE in answer:
        return ParsedResponse(thought, answer, None, _only_plain_fence(answer), True)
    return ParsedResponse(thought, answer, None, answer, False)


def parse_truth(truth: str) -> ParsedResponse:
    """`parse_response` for a ground truth: without `<answer>` tags all of it is the answer."""
    return parse_response(truth if "<answer>" in truth else f"<answer>{truth}</answer>")


def read_blocks(text: str, tags: Sequence[str]) -> tuple[str, ...] | None:
    """The contents of the blocks of a text that has one block for each of `tags`, in this order, and else only blanks.

    Returns None for any other text. `tags` may name a tag twice. No block may contain an opening or closing tag of
    `tags`.

    >>> read_blocks("<think>a car</think> <answer>yes</answer>", ("think", "answer"))
    ('a car', 'yes')
    >>> read_blocks("<answer>yes</answer> because", ("answer",)) is None
    True
    """
    rest, found = text.strip(), []
    marks = {mark for tag in tags for mark in (f"<{tag}>", f"</{tag}>")}
    for tag in tags:
        start, end = len(f"<{tag}>"), rest.find(f"</{tag}>")
        if not rest.startswith(f"<{tag}>") or end < 0 or any(mark in rest[start:end] for mark in marks):
            return None
        found.append(rest[start:end])
        rest = rest[end + len(f"</{tag}>") :].lstrip()
    return None if rest else tuple(found)


def read_each(text: str, tag: str) -> list[str]:
    """The contents of the blocks `<tag>…</tag>` of a text, in order, each up to the next closing tag.

    >>> read_each("<answer>3</answer> no, <answer>4</answer><answer>", "answer")
    ['3', '4']
    """
    pieces = text.split(f"<{tag}>")[1:]
    return [piece.partition(f"</{tag}>")[0] for piece in pieces if f"</{tag}>" in piece]


def format_score(response: ParsedResponse, *, wants_fence: bool) -> float:
    """0.25 for a think and 0.25 for an answer, each if it has a visible character.

    wants_fence: 0.25 more for exactly one ```json fence in the answer.
    """
    score = 0.25 * has_visible(response.think) + 0.25 * has_visible(response.answer)
    return score + 0.25 * (wants_fence and response.fence is not None)


def has_visible(text: str | None) -> bool:
    """Whether there is a character that can be seen: blanks, control and zero-width characters cannot."""
    return text is not None and any(char.isprintable() and not char.isspace() for char in set(text))


def plain_minus(text: str) -> str:
    """The text with "-" for the signs that look like it, such as U+2212, which models and charts write before numbers.

    >>> plain_minus("−5"), plain_minus("–0.5")
    ('-5', '-0.5')
    """
    return text.translate(_MINUS_SIGNS)


def load_json(text: str) -> Any:
    """The value of a JSON text, all numbers as float. Raises ValueError: not JSON, too long, or too deeply nested.

    NaN and Infinity are allowed, so that a box with one is malformed but its neighbours are not. Brackets inside
    strings count towards the nesting limit.
    """
    if len(text) > MAX_JSON_CHARS:
        raise ValueError(f"longer than {MAX_JSON_CHARS} characters")
    brackets = text.encode("ascii", "replace").translate(None, _NO_BRACKETS)
    depths = accumulate(map(_STEP.__getitem__, brackets))
    if max(depths, default=0) > MAX_NESTING:
        raise ValueError(f"nested deeper than {MAX_NESTING}")
    # float() reads any number of digits; int() refuses more than 4,300 with another error.
    return json.loads(text, parse_int=float)


def box_entries(value: Any) -> list[Any]:
    """The entries of a JSON value that lists boxes. One bare box is a list of one. Raises ValueError."""
    if isinstance(value, dict) or is_four_numbers(value):
        return [value]
    if isinstance(value, list):
        return value
    raise ValueError("not a list of boxes")


def read_box(entry: Any) -> Box:
    """`{"bbox_2d": [x1, y1, x2, y2], …}` or `[x1, y1, x2, y2]`. Raises ValueError with what is wrong with it."""
    if isinstance(entry, dict):
        entry = entry.get("bbox_2d")
    if not is_four_numbers(entry):
        raise ValueError("is not four numbers")
    if not all(abs(number) <= MAX_COORDINATE for number in entry):  # false for NaN as well
        raise ValueError(f"has a coordinate that is not finite or beyond {MAX_COORDINATE:g}")
    x1, y1, x2, y2 = entry
    if not (x1 < x2 and y1 < y2 and (x2 - x1) * (y2 - y1) > 0):
        raise ValueError("is inverted or has no area (x1 < x2 and y1 < y2 are needed)")
    return x1, y1, x2, y2


def is_four_numbers(value: Any) -> bool:
    """Whether a value of `load_json` is a list of four numbers."""
    return isinstance(value, list) and len(value) == 4 and _numbers(value)


def _numbers(values: list[Any]) -> bool:
    return all(isinstance(value, float) for value in values)  # load_json has no int; true and false are bool


def _only_block(text: str, tag: str) -> tuple[int, int] | None:
    """Start and end of the content of `<tag>…</tag>`; None unless there is exactly one."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    if text.count(opening) != 1 or text.count(closing) != 1:
        return None
    start, end = text.index(opening) + len(opening), text.index(closing)
    return (start, end) if start <= end else None


def _only_fence(answer: str) -> str | None:
    if answer.count(_FENCE_OPEN) != 1:
        return None
    start = answer.index(_FENCE_OPEN) + len(_FENCE_OPEN)
    end = answer.find(_FENCE_CLOSE, start)
    if end < 0 or answer[start].isalnum():  # not closed, or another language that begins with json
        return None
    return answer[start:end]


def _only_plain_fence(answer: str) -> str | None:
    """The text of an answer's only fence if its language is left out or is "json", in capital or small letters."""
    if answer.count(_FENCE_CLOSE) != 2:
        return None
    inside = answer[answer.index(_FENCE_CLOSE) + len(_FENCE_CLOSE) : answer.rindex(_FENCE_CLOSE)]
    language = inside[: len("json")].casefold() == "json"
    inside = inside[len("json") :] if language else inside
    if inside[:1].isalnum() or (language and inside[:1] and inside[0] in "_+-"):
        return None
    return inside
