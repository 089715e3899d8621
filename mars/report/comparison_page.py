"""The page that compares runs: `mars report A B ...`. Equal inputs give equal bytes, except with --follow:
such a page says when it was written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mars.errors import ConfigError
from mars.evaluation.run_pairs import Pair
from mars.output.text import shorten
from mars.report.evaluation_parts import evaluation_tables
from mars.report.page import ANSWERS_SCRIPT, FULL, Page
from mars.report.plots import MAX_LINES
from mars.report.run_comparison import (
    NONE,
    ComparedRun,
    Row,
    RunComparison,
    difference_rows,
    event_rows,
    last_evaluations,
    method_of,
    pair_rows,
)
from mars.report.run_curves import draw_run_curves

GENERATOR = "mars report of several runs"
"""A mark in each page of this kind: only a file with this mark may be replaced by a new page."""

MAX_RUNS = MAX_LINES
_HEADING_CHARACTERS = 24  # most characters of a run's name above a column


def write_comparison(found: RunComparison, path: Path, reload_s: int | None = None) -> None:
    """Write the page. Texts of runs and data are escaped.

    reload_s: after how many seconds the page loads itself again; None if nobody writes it anew.
    Raises ConfigError for more than MAX_RUNS runs, and SetupError if the page cannot be written.
    """
    if len(found.runs) > MAX_RUNS:
        raise ConfigError(
            f"RUN: the curves of more than {MAX_RUNS} runs cannot be told apart; got {len(found.runs)}; give fewer"
        )
    page = Page("run_parts.html.j2")
    headings = [_heading(run) for run in found.runs]
    notes = [f"{run.mark}: {note}" for run in found.runs for note in run.notes]
    without = [run.mark for run in found.runs if not run.evaluations]
    notes += [f"{', '.join(without)}: no evaluation"] if without else []
    curves = draw_run_curves([(run.mark, run.name, run.metrics) for run in found.runs])
    last = [(f"{_heading(run)} (step {result['step']})", result) for run, result in last_evaluations(found.runs)]
    page.write(
        path,
        "comparison_page.html.j2",
        script=None if reload_s is None else ANSWERS_SCRIPT,
        generator=GENERATOR,
        reload_s=reload_s,
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        headings=headings,
        first=headings[0],
        runs=page.parts("run", found.runs, _run_row),
        notes=page.parts("note", notes),
        figures=page.parts("figure", [page.figure(curve.caption, curve.description, curve.svg) for curve in curves]),
        pairs=page.parts("note", _how(found.pairs)),
        differences=page.parts("table", _difference_tables(found.pairs, headings, found.threshold)),
        method=method_of(found.pairs),
        evaluations=page.parts("table", map(_turned, evaluation_tables(last))),
        settings=_grid(page, difference_rows(found.settings), headings),
        versions=_grid(page, difference_rows(found.versions), headings),
        events=_grid(page, event_rows(found.runs), headings),
        full=FULL,
    )


def _heading(run: ComparedRun) -> str:
    return f"{run.mark} {shorten(run.name, _HEADING_CHARACTERS)}"


def _run_row(run: ComparedRun) -> dict[str, str]:
    score, evaluation = (NONE if value is None else f"{value:.3f}" for value in (run.score, run.evaluation))
    shown = {"label": run.label, "state": run.state, "progress": run.progress, "folder": run.folder}
    return {**shown, "score": score, "evaluation": evaluation}


def _how(pairs: Sequence[Pair]) -> list[str]:
    """Which evaluations are compared, or why none are."""
    others: dict[str, list[str]] = {}
    for pair in pairs:
        others.setdefault(pair.how, []).append(pair.other)
    return [f"{pairs[0].first} with {', '.join(marks)}: {how}." for how, marks in others.items()]


def _difference_tables(pairs: Sequence[Pair], headings: Sequence[str], threshold: float | None) -> list[dict[str, Any]]:
    """Tables over all data sources, then for each data source. A table has one row for the first run, and for each
    other run a row of values and a row of differences.

    Runs share a table if they are compared with the same values of the first run: at the same step, over the same
    questions.
    """
    titles = dict.fromkeys(title for pair in pairs for title in pair.comparisons)
    tables = []
    for title in titles:
        groups: dict[Any, list[tuple[str, Pair, dict[str, list[str]]]]] = {}
        for heading, pair in zip(headings[1:], pairs, strict=True):
            if title in pair.comparisons:
                rows = dict(pair_rows(pair.comparisons[title], threshold))
                of_first = tuple((label, cells[0]) for label, cells in rows.items() if cells[0] != NONE)
                groups.setdefault((pair.step, of_first), []).append((heading, pair, rows))
        for (step, _), group in groups.items():
            metric = str(group[0][1].comparisons[title]["metric"])
            table = {"title": f"{title}, step {step}", "metric": metric, **_beside(headings[0], group)}
            tables.append(_turned(table))
    return tables


def _beside(first: str, group: Sequence[tuple[str, Pair, Mapping[str, list[str]]]]) -> dict[str, Any]:
    """The columns and rows of a table with a row for each quantity.

    group: (heading, pair, rows) of each run but the first. rows: label -> [the first run's value, this run's value,
        their difference].
    """
    columns, cells = [first], {label: [made[0]] for _, _, rows in group for label, made in rows.items()}
    for heading, pair, rows in group:
        columns += [heading, f"{pair.other} − {pair.first}"]
        for label, made in cells.items():
            made += rows[label][1:] if label in rows else [NONE, NONE]
    return {"columns": columns, "rows": list(cells.items())}


def _turned(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table with rows and columns exchanged: a row for each run, and for each difference between two runs."""
    labels, cells = zip(*table["rows"], strict=True)
    rows = list(zip(table["columns"], zip(*cells, strict=True), strict=True))
    return {**table, "columns": labels, "rows": rows}


def _grid(page: Page, rows: Sequence[Row], headings: Sequence[str]) -> Mapping[str, Any]:
    """A table with one column per run, for the template: "rows" (only those that fit on the page) and "number" (of all
    rows)."""
    made = page.parts("row", rows, lambda row: {"label": row[0], "cells": list(zip(headings, row[1], strict=True))})
    return {"rows": made, "number": len(rows)}
