"""Rules of the section `tracking`."""

from __future__ import annotations

import re
from difflib import get_close_matches

from mars.config.rules import Rule
from mars.config.run_sections import TRACKERS
from mars.plugin import is_spec

# Tracker -> (names of projects that its package accepts, length of the longest name, the allowed names in words).
_PROJECTS = {
    "wandb": (re.compile(r"[^/\\#?%:]+"), 128, "none of / \\ # ? % :"),
    "swanlab": (re.compile(r"[0-9a-zA-Z_\-+.]+"), 100, "letters from a to z, digits and _ - + . alone"),
}
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


def _project_fits(project: str, names: list[str]) -> tuple[str, str] | None:
    """Refuse a project that a tracker does not take. The tracker would fail at the run's start, and be switched off."""
    for name, (allowed, most, wanted) in _PROJECTS.items():
        if name in names and (len(project) > most or not allowed.fullmatch(project)):
            return f"no name of a project of {name}", f"give at most {most} characters, {wanted}"
    return None


TRACKING_RULES = (
    Rule(("tracking.to",), _known_trackers),
    Rule(("tracking.project", "tracking.to"), _project_fits),
)
