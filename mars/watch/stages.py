"""How the time of the last step was divided over its stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mars.tracking.jsonl import finite_or_none
from mars.tracking.timer import STAGES, overlapping_stages

_PREFIX = "timing_s/"
_COLOURS = ("blue", "magenta", "green", "yellow", "cyan", "red")
_LONGEST_NAME = 13  # "wait_rollouts"


def stage_shares(row: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """(stage, seconds, share of the step) of a row of metrics.jsonl, in the order of `STAGES`, then "driver", "other".

    Stages that overlap with others are left out. "other" is the rest of the step.

    >>> stage_shares({"step": 3, "timing_s/gen": 3.0, "timing_s/driver": 0.5, "timing_s/step": 4.0})
    [('gen', 3.0, 0.75), ('driver', 0.5, 0.125), ('other', 0.5, 0.125)]
    """
    whole = _seconds(row, "step")
    if not whole:
        return []
    left_out = overlapping_stages(row)
    stages = [(name, _seconds(row, name)) for name in (*STAGES, "driver") if name not in left_out]
    other = whole - sum(seconds for _, seconds in stages)
    stages.append(("other", other if other > whole / 1000 else 0.0))
    return [(name, seconds, seconds / whole) for name, seconds in stages if seconds > 0]


def stage_table(rows: Sequence[Mapping[str, Any]], width: int, levels: str) -> RenderableType | None:
    """The stages of the last timed step, each with a bar as long as its share. None if no step was timed."""
    row = next((row for row in reversed(rows) if _seconds(row, "step")), None)
    if row is None:
        return None
    title = Text(f"step {row['step']} took {_text(_seconds(row, 'step'))}", style="bold")
    shares = stage_shares(row)
    if [name for name, _, _ in shares] == ["other"]:  # a cold start times whole steps
        return title
    table = Table.grid(padding=(0, 1, 0, 0))
    table.add_column(no_wrap=True, width=_LONGEST_NAME)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True, justify="right", width=4)
    room = max(width - _LONGEST_NAME - 4 - max(len(_text(seconds)) for _, seconds, _ in shares) - 4, 1)
    for place, (name, seconds, share) in enumerate(shares):
        bar = Text(levels[-1] * round(min(share, 1.0) * room), style=_COLOURS[place % len(_COLOURS)])
        table.add_row(Text(name), Text(_text(seconds)), Text(f"{share:.0%}"), bar)
    return Group(title, table)


def _seconds(row: Mapping[str, Any], stage: str) -> float:
    return finite_or_none(row.get(_PREFIX + stage)) or 0.0


def _text(seconds: float) -> str:
    return f"{seconds:.2f}s" if seconds < 10 else f"{seconds:.0f}s"
