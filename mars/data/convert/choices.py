"""Multiple choice as the public formats write it: "Choice list : [A. Travel, B. Law]", or a list beside the text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

from mars.data.problems import RowError

_LIST = re.compile(r"choice list ?: ?\[", re.IGNORECASE)
_LABELLED = re.compile(r"\(?([A-Za-z])[.:)]\s*(.*)", re.DOTALL)


def choices_in_text(text: str) -> list[str] | None:
    """The options of the last "Choice list : [A. …, B. …]" in a text, without their letters; None if there is none.

    Letters come in order, so commas, brackets and initials inside an option do not end it.

    >>> choices_in_text("Who? Choice list : [A. D. H. Lawrence, B. not the same, C. Poe, Edgar].")
    ['D. H. Lawrence', 'not the same', 'Poe, Edgar']
    """
    start = None
    for match in _LIST.finditer(text):
        start = match.end()
    if start is None:
        return None
    end = text.rfind("]")
    body = text[start:end] if end > start else ""
    if not body.lstrip().startswith("A. "):
        return None
    cuts = [body.index("A. ")]
    for letter in ascii_uppercase[1:]:
        found = body.find(f", {letter}. ", cuts[-1] + 2)
        if found < 0:
            break
        cuts.append(found + 2)
    ends = [cut - 2 for cut in cuts[1:]] + [len(body)]
    return [body[cut + 3 : stop].strip() for cut, stop in zip(cuts, ends, strict=True)]


def plain_choices(given: Any) -> list[str] | None:
    """A record's choices (a list, or letter -> text) without letters of their own; None if none.

    Raises RowError ("choices").
    """
    if given is None or given == []:
        return None
    if isinstance(given, dict):
        given = [f"{letter}. {option}" for letter, option in sorted(given.items())]
    if not isinstance(given, list) or not all(isinstance(option, str) and option.strip() for option in given):
        raise RowError("choices", f"the choices must be a list of texts; got {given!r:.120}")
    if len(given) > len(ascii_uppercase):
        raise RowError("choices", f"at most {len(ascii_uppercase)} choices; got {len(given)}")
    labels = [_LABELLED.fullmatch(option.strip()) for option in given]
    letters = [label[1].upper() for label in labels if label]
    if letters == list(ascii_uppercase[: len(given)]):
        return [label[2].strip() for label in labels if label]
    return [option.strip() for option in given]


def listed(options: Sequence[str]) -> str:
    """The options as the official evaluation files write them behind a question."""
    return f"Choice list : [{', '.join(f'{letter}. {option}' for letter, option in _lettered(options))}]."


def letter_of(answer: str, options: Sequence[str]) -> str:
    """The letter of the option that an answer names by its text; any other answer as it is.

    >>> letter_of("Law", ["Travel", "Law"]), letter_of("b", ["Travel", "Law"])
    ('B', 'b')
    """
    bare = answer.strip().casefold()
    return next((letter for letter, option in _lettered(options) if option.casefold() == bare), answer)


def _lettered(options: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(ascii_uppercase, options, strict=False))
