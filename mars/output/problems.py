"""One message for all problems with the rows, lines or entries of a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mars.errors import DataError
from mars.output.text import visible

SHOWN_PROBLEMS = 30


def problem_table(
    problems: Sequence[tuple[str, ...]],
    total: int,
    most_shown: int | None = SHOWN_PROBLEMS,
    *,
    subject: str,
    unit: str,
) -> list[str]:
    """Lines of text: how many rows cannot be used, a line for each problem, and how many problems are not shown.

    problems: for each problem a tuple with one text per column of the table. The first text names the row, the last one
        says what is wrong. Control characters and line ends are escaped, so that each problem is one line.
    total: number of all rows, good and bad.
    most_shown: None shows all. subject: the file or set. unit: what its rows are called.

    >>> problem_table([("a:1", "no truth"), ("a:10", "no image")], 20, subject="a", unit="rows")
    ['a: 2 of 20 rows cannot be used', '  a:1   no truth', '  a:10  no image']
    """
    shown = [tuple(map(visible, problem)) for problem in problems[:most_shown]]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)][:-1]
    lines = [f"{subject}: {len({problem[0] for problem in problems})} of {total} {unit} cannot be used"]
    for *columns, detail in shown:
        padded = [f"{text:<{width}}" for text, width in zip(columns, widths, strict=True)]
        lines.append("  " + "  ".join([*padded, detail]))
    if len(problems) > len(shown):
        lines.append(f"  and {len(problems) - len(shown)} more problems")
    return lines


def refuse(problems: Sequence[tuple[str, str]], path: Path, total: int, unit: str) -> None:
    """Raises DataError with a table of (place, problem). Does nothing without problems."""
    if not problems:
        return
    lines = problem_table(problems, total, subject=str(path), unit=unit)
    lines.append("nothing is scored, because leaving answers out would change the mean; fix the file, or make it again")
    raise DataError("\n".join(lines))
