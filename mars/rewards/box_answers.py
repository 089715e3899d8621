"""Reads boxes in an answer, in the forms that models use, in linear time (docs/rewards.md has the table).

No part of an answer is run as Python code. A text that is no JSON is rewritten with substitutions that each pass over
it once, and parsed again. A text that could mean two different lists of boxes is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from mars.rewards.box_prose import check_prose, says_nothing_is_there
from mars.rewards.parsing import (
    MAX_JSON_CHARS,
    Box,
    ParsedResponse,
    box_entries,
    is_four_numbers,
    load_json,
    read_box,
)

_KEYS = ("bbox_2d", "bbox", "box_2d")
_CORNERS = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"))
# A text that is not JSON is rewritten only within these limits. Five hundred boxes in any spelling are below them.
_MAX_QUOTES = 4000
_MAX_BRACKETS = 2000

# For str.replace, one pair after the other: on text that is not ASCII it is many times as fast as str.translate.
_CURLY = [(quote, '"') for quote in "“”„‟＂"] + [(quote, "'") for quote in "‘’‚‛"]
_ROUND = [("(", "["), (")", "]")]
_STRING = re.compile(r""""(?:[^"\\]++|\\.)*+"?|'(?:[^'\\]++|\\.)*+'?""", re.DOTALL)
_TRAILING_COMMA = re.compile(r",\s*+(?=[\]}]|\Z)")
_PYTHON_WORDS = [("True", "true"), ("False", "false"), ("None", "null")]
_NEXT_ENTRY = re.compile(r"(?<=[\]}])\s*+[,;]?+\s*+(?:and\b\s*+)?(?=[\[{])")
_LINE = re.compile(r"\s*([^\[\]{}()\n]{0,40}+)([\[{(].*[\]})])\s*[,;.]?\s*")
_TAGGED = re.compile(r"<box>([^<]*+)</box>")
_REFERENCE = re.compile(r"<ref>[^<]*+</ref>")
_QWEN_TAGS = {
    "<|box_start|>": "<box>",
    "<|box_end|>": "</box>",
    "<|object_ref_start|>": "<ref>",
    "<|object_ref_end|>": "</ref>",
}
_NUMBER_TEXT = re.compile(r"\s*-?(?:[0-9]{1,12}(?:\.[0-9]{0,12})?|\.[0-9]{1,12})\s*")


def read_boxes(response: ParsedResponse, limit: int) -> list[Box | str]:
    """The boxes of an answer, in order. For an entry that is not a valid box, a text says what is wrong with it.

    An empty list is an answer: there is nothing. A sentence that says so counts as an empty list. Raises ValueError if
    there is no answer, no list, more than one list, more than `limit` entries, or if the text around the list makes it
    doubtful (`check_prose`).

    >>> from mars.rewards.parsing import parse_response
    >>> read_boxes(parse_response("<answer>I see one: [{'bbox': ['0', 0, 4, 2]}, [1, 2, 3],]</answer>"), limit=10)
    [(0.0, 0.0, 4.0, 2.0), 'is not four numbers']
    """
    entries = read_entries(response)
    if len(entries) > limit:
        raise ValueError(f"{len(entries)} boxes, at most {limit} are looked at")
    return [_box_or_problem(entry) for entry in entries]


def read_entries(response: ParsedResponse) -> list[Any]:
    """The entries of the answer's list, not yet checked to be boxes. Raises ValueError as `read_boxes` does."""
    if response.answer is None:
        raise ValueError("there is no answer")
    text = response.boxes_text
    if text is None:
        raise ValueError("want one closed ```json fence, or none")
    try:
        return _entries(load_json(text))
    except RecursionError as error:  # the caller's own stack may be nearly full
        raise ValueError("nested too deeply") from error
    except ValueError as error:
        if len(text) > MAX_JSON_CHARS:
            raise
        other = _tagged(text) if "box" in text and "<" in text else None
        if other is None:
            other = _rewritten(text, error) if response.fenced else _in_prose(text, error)
        return other


def _entries(value: Any) -> list[Any]:
    """The entries of a JSON value: a list, one box, or an object that holds one list."""
    if isinstance(value, dict):
        named = _box_of(value)
        if named:  # one box, or a list of boxes under a key for one box
            several = len(named) == 1 and isinstance(named[0], list) and named[0]
            return named[0] if several and all(isinstance(box, list) and len(box) == 4 for box in several) else [value]
        inner = [held for held in value.values() if isinstance(held, list | dict)]
        if len(inner) == 1 and isinstance(inner[0], dict):
            return _entries(inner[0])
        lists = [held for held in value.values() if isinstance(held, list)]
        of_entries = [held for held in lists if held and all(isinstance(entry, list | dict) for entry in held)]
        flat = [held for held in lists if not held or is_four_numbers(_as_numbers(held))]
        for kind in (of_entries, flat):
            if len(kind) == 1 or (kind and not any(kind)):
                return _entries(kind[0])
        if of_entries or flat:
            raise ValueError("an object with several lists")
    if isinstance(value, list) and (is_four_numbers(_as_numbers(value)) or _are_corners(value)):
        return [value]
    return box_entries(value)


def _box_or_problem(entry: Any) -> Box | str:
    try:
        return read_box(_canonical(entry))
    except ValueError as error:
        return str(error)


def _canonical(entry: Any) -> Any:
    """An entry as `[x1, y1, x2, y2]` if it gives four numbers in another form.

    Other entries stay as they are, but a text becomes the list of its parts between commas.
    """
    if isinstance(entry, dict):
        boxes = [None if isinstance(value, dict) else _canonical(value) for value in _box_of(entry)]
        return boxes[0] if boxes and all(box == boxes[0] for box in boxes) and isinstance(boxes[0], list) else entry
    if isinstance(entry, str):
        entry = entry.strip().removeprefix("[").removesuffix("]").split(",")
    if _are_corners(entry):
        entry = [*entry[0], *entry[1]]
    return _as_numbers(entry)


def _box_of(entry: dict[str, Any]) -> list[Any]:
    """The boxes of a JSON object: one for each key of `_KEYS` and each set of keys of `_CORNERS` that it has."""
    named = [entry[key] for key in _KEYS if key in entry]
    return named + [[entry[key] for key in keys] for keys in _CORNERS if all(key in entry for key in keys)]


def _are_corners(value: Any) -> bool:
    """Whether a value is `[[x1, y1], [x2, y2]]`."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(isinstance(corner, list) and len(corner) == 2 for corner in value)
        and is_four_numbers(_as_numbers([*value[0], *value[1]]))
    )


def _is_flat(value: Any) -> bool:
    return isinstance(value, list) and {list, dict}.isdisjoint(map(type, value))


def _as_numbers(value: Any) -> Any:
    """A list of four with texts such as "12" and "3.5" turned into numbers; other values unchanged."""
    if not isinstance(value, list) or len(value) != 4:
        return value
    return [float(side) if isinstance(side, str) and _NUMBER_TEXT.fullmatch(side) else side for side in value]


def _rewritten(text: str, why: ValueError) -> list[Any]:
    """The entries of a text that is almost JSON. Raises `why`, the JSON error, if the text cannot be corrected, and
    another ValueError if the corrected text is no list of boxes, or more than one list."""
    if not 0 < sum(map(text.count, "[{(")) <= _MAX_BRACKETS:
        raise why
    repaired = _replaced(_with_double_quotes(_replaced(text, _CURLY), why), _ROUND)
    repaired = _TRAILING_COMMA.sub("", _replaced(repaired, _PYTHON_WORDS))
    value, error = _try(load_json, repaired)
    if error is None:
        return _entries(value)
    value, error = _try(load_json, "[" + _NEXT_ENTRY.sub(",", repaired) + "]")
    if error is not None or not value:
        raise why
    if len(value) == 1 and isinstance(value[0], list):  # commas were missing inside the list
        return _entries(value[0])
    if _are_corners(value):
        return [value]
    if not all(isinstance(entry, dict) or _are_corners(entry) or _is_flat(entry) for entry in value):
        raise ValueError("more than one list")
    return value


def _replaced(text: str, pairs: list[tuple[str, str]]) -> str:
    for old, new in pairs:
        text = text.replace(old, new)
    return text


def _with_double_quotes(text: str, why: ValueError) -> str:
    if "'" not in text:
        return text
    if '"' not in text and "\\" not in text:
        return text.replace("'", '"')
    if text.count("'") + text.count('"') > _MAX_QUOTES:
        raise why
    return _STRING.sub(lambda match: _as_json_string(match[0]), text)


def _as_json_string(literal: str) -> str:
    if literal[0] == '"' or len(literal) < 2:
        return literal
    return json.dumps(literal[1:-1].replace("\\'", "'"), ensure_ascii=False)


def _in_prose(text: str, why: ValueError) -> list[Any]:
    """The entries of the only list in a text, or of lines with a box each; [] for a sentence that there is nothing."""
    starts = [place for place in map(text.find, "[{") if place >= 0] or [
        place for place in [text.find("(")] if place >= 0
    ]
    if not starts:
        if says_nothing_is_there(text):
            return []
        raise why
    if "\n" in text.strip():
        try:
            return _in_lines(text, why)
        except ValueError:
            pass  # one list may extend over several lines
    start = min(starts)
    end = 1 + max(text.rfind("]"), text.rfind("}"), -1 if text[start] != "(" else text.rfind(")"))
    before, after = text[:start], text[max(end, start) :]
    entries = _rewritten(text[start:end] + ("," if after.strip() == "," else ""), why)
    check_prose(f"{before} {after}", not entries)
    return entries


def _in_lines(text: str, why: ValueError) -> list[Any]:
    """The entries of several lines with one box each, behind a bullet or a few words ("Person 1: [...]")."""
    matches = [_LINE.fullmatch(line) for line in text.strip().split("\n", _MAX_BRACKETS) if line.strip()]
    boxes = [match for match in matches if match]
    if len(boxes) < 2 or len(boxes) < len(matches):
        raise why
    entries = _rewritten("\n".join(match[2] for match in boxes), why)
    check_prose(" ".join(match[1] for match in boxes), False)
    return entries


def _tagged(text: str) -> list[Any] | None:
    """The entries of all blocks `<box>…</box>`; None if there are no blocks, or more than `_MAX_BRACKETS`.

    Raises ValueError for bad JSON, for brackets outside the blocks, and as `check_prose` does.
    """
    for tag, plain in _QWEN_TAGS.items():
        text = text.replace(tag, plain)
    inside = _TAGGED.findall(text)
    if not 0 < len(inside) <= _MAX_BRACKETS:
        return None
    prose = _REFERENCE.sub(" ", _TAGGED.sub(" ", text))
    if any(char in prose for char in "[]{}<>"):
        raise ValueError("boxes with and without <box>")
    check_prose(prose, False)
    entries = load_json("[[" + _replaced("],[".join(inside), _ROUND) + "]]")
    return [box for entry in entries for box in _boxes_in_tag(entry)]


def _boxes_in_tag(entry: Any) -> list[Any]:
    while isinstance(entry, list) and len(entry) == 1 and isinstance(entry[0], list):
        entry = entry[0]
    if isinstance(entry, list) and entry and all(isinstance(box, list) and len(box) == 4 for box in entry):
        return entry
    return [entry]


def _try(load: Callable[[str], Any], text: str) -> tuple[Any, Exception | None]:
    try:
        return load(text), None
    except (ValueError, RecursionError) as error:
        return None, error
