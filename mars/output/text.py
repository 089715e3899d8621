"""Make text from models, data sets and file names safe to show."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

# Unicode categories: control, format (bidirectional overrides, zero width), surrogate, line and paragraph separators.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})

# They join or part the characters around them, as in families of emoji and in Persian words.
_JOINERS = frozenset("\u200c\u200d")
# Signs of numbers and verses. They are visible, although they are in category Cf.
_ARABIC_SIGNS = frozenset(map(chr, (*range(0x600, 0x606), 0x6DD, 0x8E2)))


def visible(text: str, keep: str = "") -> str:
    r"""`text` with control characters and invisible characters replaced by their escapes.

    A joiner between two visible non-ASCII characters stays, because it changes how they look.
    keep: characters that are not escaped, such as "\n\t" for a text of several lines.

    >>> visible("\x1b[2Jred")
    '\\x1b[2Jred'
    >>> visible("👨\u200d👩"), visible("a\u200db")
    ('👨\u200d👩', 'a\\u200db')
    """
    others = text
    for character in keep:
        others = others.replace(character, "")
    if others.isprintable():  # the usual case, a hundred times as fast as looking at each character
        return text
    shown = []
    for place, character in enumerate(text):
        joins = character in _JOINERS and _is_seen(text[place - 1 : place]) and _is_seen(text[place + 1 : place + 2])
        shown.append(character if character in keep or joins or not _is_hidden(character) else _escape(character))
    return "".join(shown)


def _is_hidden(character: str) -> bool:
    return unicodedata.category(character) in _HIDDEN and character not in _ARABIC_SIGNS


def _is_seen(character: str) -> bool:
    """Whether `character` is visible and not ASCII; False for ""."""
    return bool(character) and not character.isascii() and not character.isspace() and not _is_hidden(character)


def shorten(text: str, limit: int) -> str:
    """The first `limit` characters of `text`, followed by the number of characters that are left out."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]} … ({len(text) - limit} more characters)"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """One line of text for each row, padded so that columns are aligned. Cells are passed through `visible`.

    All rows must have equally many cells. Chinese characters and emoji count as two columns of a terminal, accents as
    none.

    >>> aligned([("step", "size"), ("2", "7.4 MB")])
    ['step  size', '2     7.4 MB']
    """
    from rich.cells import cell_len

    shown = [[visible(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*shown, strict=True)]
    padded = [[cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)] for row in shown]
    return ["  ".join(row).rstrip() for row in padded]


def _escape(character: str) -> str:
    # unicode_escape also encodes lone surrogates, as \udXXX.
    return character.encode("unicode_escape").decode("ascii")
