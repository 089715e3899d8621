"""Make text from models, data sets and file names safe to show."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

# Unicode categories: control, format (bidirectional overrides, zero width), surrogate, line and paragraph separators.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def visible(text: str, keep: str = "") -> str:
    r"""`text` with control characters and invisible characters replaced by their escapes.

    keep: characters to leave as they are, such as "\n\t" for several lines of text.

    >>> visible("\x1b[2Jred")
    '\\x1b[2Jred'
    """
    others = text
    for character in keep:
        others = others.replace(character, "")
    if others.isprintable():  # the usual case, a hundred times as fast as looking at each character
        return text
    return "".join(
        character if character in keep or unicodedata.category(character) not in _HIDDEN else _escape(character)
        for character in text
    )


def shorten(text: str, limit: int) -> str:
    """The first `limit` characters of `text`, followed by the number of characters left out."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]} … ({len(text) - limit} more characters)"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """One line of text for each row, padded so that the columns line up. Each cell is passed through `visible`.

    All rows must have the same number of cells.

    >>> aligned([("step", "size"), ("2", "7.4 MB")])
    ['step  size', '2     7.4 MB']
    """
    shown = [[visible(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]


def _escape(character: str) -> str:
    # unicode_escape also encodes lone surrogates, as \udXXX.
    return character.encode("unicode_escape").decode("ascii")
