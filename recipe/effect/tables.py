"""The numbers of a study as CSV files: a row for each run, and a row for each comparison."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mars.errors import DataError
from mars.output.files import write_atomically
from recipe.effect.analysis import Comparison, Row

SERIES = "primary_series"
_FIRST_COLUMNS = ("dial", "arm", "seed", "cold_start", "seconds", "rollouts_per_prompt", "primary")
_DIGITS = 6  # of a number in a file: more than the metrics of a few hundred rollouts have


def write_results(path: Path, rows: Sequence[Row]) -> None:
    """One line for each run. The last column has the primary metric of every step, so that the report's numbers can be
    computed from this file and the study's file alone."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = [*_FIRST_COLUMNS, *sorted(name for name in names if name not in (*_FIRST_COLUMNS, SERIES)), SERIES]
    lines = [[_text(row.get(column)) for column in columns] for row in rows]
    write_atomically(path, _csv([columns, *lines]))


def read_results(path: Path) -> list[dict[str, Any]]:
    """The rows that `write_results` wrote, with its rounding. Raises DataError."""
    try:
        lines = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        return [{name: _value(name, text) for name, text in line.items() if text} for line in lines]
    except (OSError, ValueError, csv.Error, TypeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give a results.csv that a report has written") from error


def write_differences(path: Path, comparisons: Sequence[Comparison]) -> None:
    """One line for each comparison, with 95 % intervals. Columns `starts_…`: over the cold starts' mean differences."""
    columns = ["metric", "kind", "dial", "arm", "minus", "n", "mean", "se", "low", "high", "p", "p_holm"]
    columns += ["starts_n", "starts_mean", "starts_low", "starts_high", "starts_p", "starts_p_holm"]
    lines = []
    for c in comparisons:
        pairs, starts = c.difference.pairs, c.difference.starts
        over_starts = [None] * 5 if starts is None else [starts.n, starts.mean, starts.low, starts.high, starts.p]
        kind = "primary" if c.primary else "secondary"
        numbers = [
            pairs.n,
            pairs.mean,
            pairs.se,
            pairs.low,
            pairs.high,
            pairs.p,
            c.p_holm,
            *over_starts,
            c.starts_p_holm,
        ]
        lines.append([_text(value) for value in (c.metric, kind, c.dial, c.arm, c.other, *numbers)])
    write_atomically(path, _csv([columns, *lines]))


def _csv(lines: Sequence[Sequence[str]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(lines)
    return stream.getvalue()


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return json.dumps([round(number, _DIGITS) for number in value], separators=(",", ":"))
    return f"{value:.{_DIGITS}g}" if isinstance(value, float) else str(value)


def _value(name: str, text: str) -> Any:
    if name == "arm":
        return text
    if name == SERIES:
        return json.loads(text)
    return int(text) if name in ("seed", "cold_start") else float(text)
