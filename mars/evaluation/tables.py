"""The table of an evaluation: one column for each result, one row for each quantity, with 95 % intervals."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mars.output.console import VisibleConsole
from mars.output.text import visible

_LABELS = {
    "multi": "Multi",
    "union": "Union (best source)",
    "information_gain": "Information gain",
    "conflict_rate": "Conflict rate",
}


def quantity_label(quantity: str, threshold: float | None = None) -> str:
    """The label in tables for a quantity of `summary.prompt_values`: "Multi", "Mono infrared", "Share with IoU > 0.5".

    The label of a view of several sources (an anchor view of `anchor=all_but_one`) is "Only rgb+depth".
    """
    if quantity == "share_over_threshold":
        return f"Share with IoU > {threshold:g}"
    name = quantity.removeprefix("mono/")
    return _LABELS.get(quantity) or (f"Only {visible(name)}" if "+" in name else f"Mono {visible(name)}")


def evaluation_rows(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """The rows of the evaluation table, as (label, one cell per result). A cell is a percentage with its 95 % interval
    and number of prompts, "53.1 [48.2, 58.0] n=400", or a count of failed rewards or of unparseable answers.

    results: what `summary.summarize` returns. A quantity that no result has is left out; a result that lacks a
    quantity shows a dash.
    """
    sources = list(dict.fromkeys(source for result in results for source in result["mono"]))
    thresholds = list(dict.fromkeys(hit["threshold"] for result in results if (hit := result["share_over_threshold"])))

    def hit_share(threshold: float) -> list[Mapping[str, Any] | None]:
        shares = [result["share_over_threshold"] for result in results]
        return [share if share and share["threshold"] == threshold else None for share in shares]

    def row(quantity: str) -> tuple[str, list[Mapping[str, Any] | None]]:
        return quantity_label(quantity), [result[quantity] for result in results]

    estimated: list[tuple[str, list[Mapping[str, Any] | None]]] = [
        row("multi"),
        *((quantity_label(f"mono/{source}"), [result["mono"].get(source) for result in results]) for source in sources),
        row("union"),
        row("information_gain"),
        row("conflict_rate"),
        *((quantity_label("share_over_threshold", limit), hit_share(limit)) for limit in thresholds),
    ]
    signs = {quantity_label("information_gain"): "+"}
    rows = [
        (label, [_cell_with_n(estimate, signs.get(label, "")) for estimate in estimates])
        for label, estimates in estimated
        if any(estimates)
    ]
    rows.append(("Failed rewards", [str(result["failed"]) for result in results]))
    unparseable = [result.get("unparseable") for result in results]
    if any(count is not None for count in unparseable):
        rows.append(("Unparseable answers", ["–" if count is None else str(count) for count in unparseable]))
    return rows


def by_scorer(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A result as two results, one per scorer, strict and compat; or the result alone if it has no compat scores."""
    if result.get("compat") is None:
        return [result]
    compat = {**result, **result["compat"], "name": f"{result['name']}, compat"}
    return [{**result, "name": f"{result['name']}, strict"}, compat]


def evaluation_table(results: Sequence[Mapping[str, Any]], title: str = "Evaluation") -> Table:
    """The table of `results`. Text from files is escaped."""
    metric = ", ".join(dict.fromkeys(str(result["metric"]) for result in results))
    table = Table(title=Text(visible(f"{title} ({metric}, %, 95 % intervals)")), title_justify="left")
    table.add_column("")
    for result in results:
        table.add_column(Text(visible(str(result["name"]))), justify="right")
    for label, cells in evaluation_rows(results):
        table.add_row(Text(label), *(Text(cell) for cell in cells))
    return table


def print_table(table: Table) -> None:
    """Print to stdout without shortening a cell. In a file, lines are as long as needed. In a terminal, cells wrap
    between words."""
    console = VisibleConsole()
    unlimited = console.options.update(max_width=sys.maxsize)
    needed = Measurement.get(console, unlimited, table)
    width = max(console.width, needed.minimum if console.is_terminal else needed.maximum)
    VisibleConsole(width=width).print(table)


def cell(estimate: Mapping[str, Any] | None, sign: str) -> str:
    """The mean and its interval in percent: "53.1 [48.2, 58.0]"; "–" without an estimate.

    sign: "+" shows the sign of positive numbers too.
    """
    if not estimate:
        return "–"
    mean, low, high = (format(100 * estimate[key], f"{sign}.1f") for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _cell_with_n(estimate: Mapping[str, Any] | None, sign: str) -> str:
    return f"{cell(estimate, sign)} n={int(estimate['n'])}" if estimate else cell(estimate, sign)
