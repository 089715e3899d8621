"""Generate the tables of docs/effect.md from the results that come with the project.

python -m recipe.effect.document           writes them
python -m recipe.effect.document --check   ends with 1 if they are out of date
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from mars.errors import DataError
from mars.output.files import write_atomically
from recipe.effect.analysis import comparisons, planned_primary
from recipe.effect.report import RESULTS
from recipe.effect.report_tables import Table, control_tables, primary_tables, secondary_tables
from recipe.effect.study import STUDY_COPY, load_study
from recipe.effect.tables import read_results

RESULTS_FOLDER = Path(__file__).with_name("results")
DOCUMENT = Path(__file__).parents[2] / "docs" / "effect.md"
_BEGIN, _END = "<!-- tables of recipe/effect/results -->\n", "<!-- end of the tables -->\n"
_LEFT_OUT = ("rollouts", "pairs")  # columns of the report


def tables(folder: Path) -> str:
    """The report's tables as Markdown, from the file of a study and its results in `folder`.

    Arms without runs are left out. Raises ConfigError, DataError.
    """
    study, rows = load_study(folder / STUDY_COPY), read_results(folder / RESULTS)
    compared, family = comparisons(study, rows), len(planned_primary(study))
    primary = [_with_runs(table) for table in primary_tables(study, rows, compared)]
    sections = {
        f"Primary metric ({family} primary comparisons)": [table for table in primary if table["rows"]],
        "Against controls": control_tables(study, compared),
        "All metrics": secondary_tables(study, rows, compared),
    }
    lines = [line for title, found in sections.items() for line in (f"### {title}", "", *_markdown(found))]
    return "\n".join([f"{len(rows)} runs.", "", *lines])


def page(text: str, folder: Path) -> str:
    """The text of docs/effect.md with the tables of `folder`. Raises DataError if `text` has no place for them."""
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise DataError(f"{DOCUMENT}: no place for the tables; write the lines {_BEGIN.strip()} and {_END.strip()}")
    return f"{before}{_BEGIN}{tables(folder)}{_END}{after}"


def _with_runs(table: Table) -> Table:
    place = table["columns"].index("runs")
    return {**table, "rows": [row for row in table["rows"] if row[place].isdigit() and int(row[place]) > 0]}


def _markdown(found: Sequence[Table]) -> list[str]:
    lines = []
    for table in found:
        kept = [place for place, name in enumerate(table["columns"]) if name not in _LEFT_OUT]
        rows = [table["columns"], ["---"] * len(table["columns"]), *table["rows"]]
        cells = [" | ".join(row[place] for place in kept) for row in rows]
        lines += [f"**{table['title']}**", "", *(f"| {line} |" for line in cells), ""]
    return lines


def main(arguments: Sequence[str]) -> int:
    text = DOCUMENT.read_text(encoding="utf-8")
    wanted = page(text, RESULTS_FOLDER)
    if wanted == text:
        return 0
    if "--check" in arguments:
        sys.stderr.write(f"{DOCUMENT}: its tables are stale; run python -m recipe.effect.document\n")
        return 1
    write_atomically(DOCUMENT, wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
