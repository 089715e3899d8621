"""The curves of a run as a table of small charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from mars.output.text import shorten, visible
from mars.tracking.jsonl import finite_or_none
from mars.tracking.sources import ANCHOR
from mars.watch.curve import columns, curve

Rows = Sequence[Mapping[str, Any]]

_REWARD, _GAIN, _LOSS = "critic/score/mean", "mars/gain/mean", "sft/loss"
_TALL = (_REWARD, _GAIN, _LOSS)
_TALL_LINES = 3
_NAMES = {
    _GAIN: "gain",
    _LOSS: "loss",
    "eval/loss": "eval loss",
    "eval/multi/mean": "evaluation",
    "eval/information_gain/mean": "eval gain",
    "response_length/mean": "length",
}
_MAX_ANCHORS = 4
_NAME_CHARACTERS = 16
_VALUE_CHARACTERS = 8
_WIDE = 60  # characters from which on the range stands beside a chart
_RANGE_CHARACTERS = 19  # of "-0.0123 to -0.00456"


def curve_table(rows: Rows, width: int, levels: str, *, tall: bool) -> Table | None:
    """A row for each metric of `_curves`: its name, last value and chart, and the range if `width` is at least 60.

    None without such a metric.

    A column of a chart is the mean of its steps. The range is that of the columns. levels: as for `curve`. tall:
    whether the charts of reward, gain and loss are three lines high.
    """
    table = Table.grid(padding=(0, 1, 0, 0))
    is_wide = width >= _WIDE
    table.add_column(no_wrap=True, width=min(_NAME_CHARACTERS, width // 4))
    table.add_column(no_wrap=True, justify="right", width=_VALUE_CHARACTERS)
    table.add_column(no_wrap=True)
    beside = _RANGE_CHARACTERS + 1 if is_wide else 0
    room = max(width - min(_NAME_CHARACTERS, width // 4) - _VALUE_CHARACTERS - 3 - beside, 1)
    if is_wide:
        table.add_column(no_wrap=True, style="dim")
    for key, name in _curves(rows):
        values = [row[key] for row in rows if key in row]
        heights = columns(values, room)
        lines = curve(heights, _TALL_LINES if tall and key in _TALL else 1, levels)
        known = [height for height in heights if height is not None]
        chart = Text("\n".join(lines), style="cyan", no_wrap=True)
        cells = [Text(visible(name), overflow="ellipsis"), Text(_number(_last(values))), chart]
        if is_wide:
            cells.append(Text(f"{_number(min(known, default=None))} to {_number(max(known, default=None))}"))
        table.add_row(*cells)
    return table if table.row_count else None


def _curves(rows: Rows) -> list[tuple[str, str]]:
    """(metric, name) of each curve: the reward, anchors of at most four anchor views, then the metrics of `_NAMES`."""
    keys = {key for row in rows for key in row}
    anchors = sorted((match[1], key) for key in keys if (match := ANCHOR.fullmatch(key)))
    shown = [(_REWARD, "reward"), *((key, shorten(name, 60)) for name, key in anchors[:_MAX_ANCHORS]), *_NAMES.items()]
    return [(key, name) for key, name in shown if key in keys]


def _last(values: Sequence[Any]) -> float | None:
    return finite_or_none(values[-1])


def _number(value: float | None) -> str:
    """The number with three significant digits."""
    return "–" if value is None else f"{value:.3g}"
