"""One thing that is wrong with the settings, as one line for the user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_NOTHING = object()
_LONGEST_VALUE = 120


@dataclass(frozen=True)
class Problem:
    """`str()` gives "dotted.key: what is wrong; got X; do Y".

    key: the dotted key to change, or the override as typed where no key could be read from it.
    got: the value found; left out if there is none.

    >>> str(Problem("rollout.top_p", "out of range", "give a number > 0 and <= 1", got=1.5))
    'rollout.top_p: out of range; got 1.5; give a number > 0 and <= 1'
    """

    key: str
    wrong: str
    do: str
    got: Any = _NOTHING

    def __str__(self) -> str:
        got = "" if self.got is _NOTHING else f"; got {shown(self.got)}"
        return " ".join(f"{self.key}: {self.wrong}{got}; {self.do}".split())


def shown(value: Any) -> str:
    """null, true or false; any other value as Python's repr, cut after 120 characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "..."
