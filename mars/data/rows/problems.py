"""Rows that cannot be used: collected, reported in one message, or dropped and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

OnBadSample = Literal["error", "drop"]

SHOWN_PROBLEMS = 30


class RowError(Exception):
    """A row that cannot be used. `reason` is its class in counts and metrics, the text says what is wrong."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Problem:
    """row: "file:row", rows counted from 0. reason: a class such as "truth". detail: what is wrong and what to do."""

    row: str
    reason: str
    detail: str


REMEDY = "fix the rows, or set data.on_bad_sample=drop to leave them out and count them"

IMAGES_ELSEWHERE = (
    "where the images lie elsewhere, name their folder: data.image_root, in mars data convert --image-root"
)


def report(
    problems: Sequence[Problem], num_rows: int, remedy: str = REMEDY, most_shown: int | None = SHOWN_PROBLEMS
) -> str:
    """One message for all problems: the first `most_shown` of them (None: all) as a table, the rest as counts."""
    shown = problems[:most_shown]
    row_width = max(len(problem.row) for problem in shown)
    reason_width = max(len(problem.reason) for problem in shown)
    lines = [f"data: {len({p.row for p in problems})} of {num_rows} rows cannot be used"]
    lines += [f"  {p.row:<{row_width}}  {p.reason:<{reason_width}}  {p.detail}" for p in shown]
    if len(problems) > len(shown):
        lines.append(f"  and {len(problems) - len(shown)} more problems")
    counts = Counter(problem.reason for problem in problems).most_common()
    lines.append("problems by reason: " + ", ".join(f"{reason} {count}" for reason, count in counts))
    if any(problem.reason == "image_missing" for problem in problems):
        lines.append(IMAGES_ELSEWHERE)
    lines.append(remedy)
    return "\n".join(lines)


def rows_by_reason(problems: Sequence[Problem]) -> dict[str, int]:
    """Rows for each reason; a row with several problems counts once, under its first."""
    first = {problem.row: problem.reason for problem in reversed(problems)}
    return dict(sorted(Counter(first.values()).items()))
