"""Rules of the section `tracking`."""

from __future__ import annotations

from difflib import get_close_matches

from mars.config.rules import Rule
from mars.config.run_sections import TRACKERS
from mars.plugin import is_spec

_WANTED = f"want {', '.join(TRACKERS)} or path/to/file.py:Class"


def _known_trackers(names: list[str]) -> tuple[str, str] | None:
    for name in names:
        if name in TRACKERS or (is_spec(name) and name.rpartition(":")[0].endswith(".py")):
            continue
        close = get_close_matches(name.partition(":")[0], TRACKERS, n=1)
        return f"no such tracker: {name}", f"did you mean {close[0]}? {_WANTED}" if close else _WANTED
    if len(set(names)) < len(names):
        return "a tracker comes twice", "give each once"
    return None


TRACKING_RULES = (Rule(("tracking.to",), _known_trackers),)
