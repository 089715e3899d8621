"""The table of an evaluation: one column for each result, one row for each quantity, with 95 % intervals."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mars.output.text import visible


def evaluation_rows(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """(label, one cell per result) of the evaluation table, in percent: "53.1 [48.2, 58.0] n=400".

    results: what `summary.summarize` returns. A quantity that no result has is left out; one that a result
    lacks is a dash.
    """
    sources = list(dict.fromkeys(source for result in results for source in result["mono"]))
    thresholds = list(dict.fromkeys(hit["threshold"] for result in results if (hit := result["share_over_threshold"])))

    def hit_share(threshold: float) -> list[Mapping[str, Any] | None]:
        shares = [result["share_over_threshold"] for result in results]
        return [share if share and share["threshold"] == threshold else None for share in shares]

    columns: list[tuple[str, list[Mapping[str, Any] | None]]] = [
        ("Multi", [result["multi"] for result in results]),
        *((f"Mono {visible(source)}", [result["mono"].get(source) for result in results]) for source in sources),
        ("Union (best source)", [result["union"] for result in results]),
        ("Information gain", [result["information_gain"] for result in results]),
        ("Conflict rate", [result["conflict_rate"] for result in results]),
        *((f"Share with IoU > {threshold:g}", hit_share(threshold)) for threshold in thresholds),
    ]
    rows = [
        (label, [_cell(estimate, "+" if label.startswith("Information gain") else "") for estimate in estimates])
        for label, estimates in columns
        if any(estimates)
    ]
    rows.append(("Failed rewards", [str(result["failed"]) for result in results]))
    unparseable = [result.get("unparseable") for result in results]
    if any(count is not None for count in unparseable):
        rows.append(("Unparseable answers", ["–" if count is None else str(count) for count in unparseable]))
    return rows


def by_scorer(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A result under the strict and under the compat scorer, as results of their own; alone where it has one scorer."""
    if result.get("compat") is None:
        return [result]
    compat = {**result, **result["compat"], "name": f"{result['name']}, compat"}
    return [{**result, "name": f"{result['name']}, strict"}, compat]


def evaluation_table(results: Sequence[Mapping[str, Any]], title: str = "Evaluation") -> Table:
    """One column per result, one row per quantity, with 95 % intervals. Text of others is escaped."""
    metric = ", ".join(dict.fromkeys(str(result["metric"]) for result in results))
    table = Table(title=Text(visible(f"{title} ({metric}, %, 95 % intervals)")), title_justify="left")
    table.add_column("")
    for result in results:
        table.add_column(Text(visible(str(result["name"]))), justify="right")
    for label, cells in evaluation_rows(results):
        table.add_row(Text(label), *(Text(cell) for cell in cells))
    return table


def print_table(table: Table) -> None:
    """To stdout, with every number whole: in a file as wide as it is; on a terminal that is too narrow for the longest
    words, the terminal breaks the lines."""
    console = Console()
    unlimited = console.options.update(max_width=sys.maxsize)
    needed = Measurement.get(console, unlimited, table)
    width = max(console.width, needed.minimum if console.is_terminal else needed.maximum)
    Console(width=width).print(table)


def _cell(estimate: Mapping[str, Any] | None, sign: str) -> str:
    if not estimate:
        return "–"
    mean, low, high = (format(100 * estimate[key], f"{sign}.1f") for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}] n={int(estimate['n'])}"
