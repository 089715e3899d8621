"""Problems of rows: one message for all of them; refuse the files, or drop and count the bad rows."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mars.errors import DataError
from mars.output.problems import SHOWN_PROBLEMS, problem_table

logger = logging.getLogger(__name__)

OnBadSample = Literal["error", "drop"]

REMEDY = "fix the rows, or set data.on_bad_sample=drop to leave them out and count them"
_LINE = re.compile(r".*\.jsonl:(\d+)")  # a row's label, without the number of a question

IMAGES_ELSEWHERE = "if the images are in another folder, name it: data.image_root, in mars data convert --image-root"


class RowError(Exception):
    """A row cannot be used. reason: the class of the problem, for counts and metrics."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class RowProblem:
    """row: "file:number", from 0. reason: the problem's class, such as "truth". detail: what is wrong, what to do."""

    row: str
    reason: str
    detail: str


def report(
    problems: Sequence[RowProblem], num_rows: int, remedy: str = REMEDY, most_shown: int | None = SHOWN_PROBLEMS
) -> str:
    """One message for all problems: a table of the first `most_shown` (None: all), and the number of each reason.

    If a row of a JSONL file has a problem, the line number of the first such row is added.
    """
    columns = [(problem.row, problem.reason, problem.detail) for problem in problems]
    lines = problem_table(columns, num_rows, most_shown, subject="data", unit="rows")
    counts = Counter(problem.reason for problem in problems).most_common()
    lines.append("problems by reason: " + ", ".join(f"{reason} {count}" for reason, count in counts))
    line = next(filter(None, map(_LINE.fullmatch, (problem.row for problem in problems))), None)
    if line is not None:
        lines.append(f"rows count from 0: {line[0]} is line {int(line[1]) + 1} of its file")
    if any(problem.reason == "image_missing" for problem in problems):
        lines.append(IMAGES_ELSEWHERE)
    lines.append(remedy)
    return "\n".join(lines)


def refuse_or_drop(problems: Sequence[RowProblem], num_rows: int, on_bad_sample: OnBadSample) -> dict[str, int]:
    """Apply `data.on_bad_sample` to the problems of `num_rows` rows; returns the number of dropped rows by reason.

    Raises DataError with the `report` of the problems for "error", and for "drop" if no row is left.
    """
    if not problems:
        return {}
    if on_bad_sample == "error":
        raise DataError(report(problems, num_rows))
    dropped = rows_by_reason(problems)
    if sum(dropped.values()) == num_rows:
        raise DataError(f"data.on_bad_sample: no row is left after dropping\n{report(problems, num_rows)}")
    logger.warning("data: %d of %d rows dropped: %s", sum(dropped.values()), num_rows, dropped)
    return dropped


def rows_by_reason(problems: Sequence[RowProblem]) -> dict[str, int]:
    """Number of rows by reason. A row with several problems counts once, under its first."""
    first = {problem.row: problem.reason for problem in reversed(problems)}
    return dict(sorted(Counter(first.values()).items()))
