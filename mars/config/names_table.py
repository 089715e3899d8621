"""The table of docs/coming_from.md: names of other libraries' settings, with mars' names for them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mars.config.verl_names import LIBRARIES

FIRST, LAST = "<!-- names: python -m mars.config.document -->", "<!-- end of names -->"
_ENTRY = re.compile(r"(?:- (?P<reason>.+)|(?P<keys>[\w.]+(?: and [\w.]+)*)(?: \((?P<note>.+)\))?)", re.DOTALL)


def table(keys: Sequence[str]) -> str:
    """One row for each entry: mars' setting, each library's names for it, what differs.

    Rows are in the order of `keys`, and names for which mars has no setting come last. Raises ValueError for an entry
    that is not as `mars.config.verl_names` says.
    """
    entries = dict.fromkeys(entry for names in LIBRARIES.values() for entry in names.values())
    place = {key: number for number, key in enumerate(keys)}
    rows = sorted((_row(entry) for entry in entries), key=lambda row: place.get(row[0].split(" and ")[0], len(place)))
    lines = [f"| mars | {' | '.join(LIBRARIES)} | what differs |", "|---" * (len(LIBRARIES) + 2) + "|"]
    return "\n".join([*lines, *(f"| {_code(ours)} | {' | '.join(cells)} |" for ours, *cells in rows)])


def _row(entry: str) -> list[str]:
    """The cells of an entry's row: mars' keys ("" for none), its names in each library, and its note."""
    parts = _ENTRY.fullmatch(entry)
    if parts is None:
        raise ValueError(f"mars/config/verl_names.py: an entry is a key, notes in brackets, or '- why'; got {entry!r}")
    theirs = ["<br>".join(name for name, found in names.items() if found == entry) for names in LIBRARIES.values()]
    return [parts["keys"] or "", *theirs, parts["reason"] or parts["note"] or ""]


def _code(keys: str) -> str:
    return " and ".join(f"`{key}`" for key in keys.split(" and ")) if keys else "none"


def with_table(page: str, keys: Sequence[str]) -> str:
    """The page with the table between its two marks. Raises ValueError if it lacks one of them."""
    before, first, rest = page.partition(FIRST)
    _, last, after = rest.partition(LAST)
    if not first or not last:
        raise ValueError(f"docs/coming_from.md: lacks the line {FIRST if not first else LAST}")
    return f"{before}{FIRST}\n{table(keys)}\n{LAST}{after}"
