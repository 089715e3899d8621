"""The tables of evaluations on a page, as arguments for the macro `table` of run_parts.html.j2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mars.evaluation.tables import evaluation_rows

Column = tuple[str, Mapping[str, Any]]
"""(heading, result of `evaluation.summary.summarize`)."""


def evaluation_tables(columns: Sequence[Column]) -> list[dict[str, Any]]:
    """A table over all data sources; the same by the scorer `compat` (docs/rewards.md) if a result has it; and one for
    each data source if there are several."""
    if not columns:
        return []
    names = sorted({name for _, result in columns for name in result["by_data_source"]})
    tables: list[tuple[str, Sequence[Column]]] = [("All data sources", columns)]
    compat = [(heading, {**result, **result["compat"]}) for heading, result in columns if result.get("compat")]
    if compat:
        tables.append(("All data sources, compat scorer", compat))
    if len(names) > 1:
        for name in names:
            having = [
                (heading, {**result, **result["by_data_source"][name]})
                for heading, result in columns
                if name in result["by_data_source"]
            ]
            tables.append((name, having))
    return [
        evaluation_part(title, [result for _, result in part], [heading for heading, _ in part])
        for title, part in tables
    ]


def evaluation_part(title: str, results: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> dict[str, Any]:
    """One table, with a column for each result."""
    return {
        "title": title,
        "metric": ", ".join(dict.fromkeys(str(result["metric"]) for result in results)),
        "columns": columns,
        "rows": evaluation_rows(results),
    }
