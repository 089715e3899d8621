"""Text of others (models, data sets, file names) made safe to show."""

from __future__ import annotations

import unicodedata

# Control, format (bidirectional overrides, zero width), surrogate; line and paragraph separator.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def visible(text: str, keep: str = "") -> str:
    r"""`text` with every character that acts on a terminal or hides from the eye written as its escape.

    keep: characters left as they are, "\n\t" for a block of text.

    >>> visible("\x1b[2Jred")
    '\\x1b[2Jred'
    """
    return "".join(
        character if character in keep or unicodedata.category(character) not in _HIDDEN else _escape(character)
        for character in text
    )


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters of `text`; what is left out is said."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]} … ({len(text) - limit} more characters)"


def _escape(character: str) -> str:
    # "surrogatepass" is not needed: unicode_escape writes lone surrogates as \udXXX.
    return character.encode("unicode_escape").decode("ascii")
