"""Several result files side by side, paired by question: `mars eval compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from mars.errors import DataError
from mars.evaluation.files import Results
from mars.evaluation.score import Scored
from mars.evaluation.summary import EvalRecord, bounds, highest_value, mean_interval, prompt_values
from mars.evaluation.tables import cell, quantity_label
from mars.output.text import visible
from mars.rewards.built_in import BUILT_IN
from mars.rewards.contract import ScorerName

if TYPE_CHECKING:
    from rich.table import Table

METHOD = "mean of the differences question by question, with a Student's t interval over the questions"


def compare(files: Sequence[Scored], threshold: float | None) -> dict[str, Any]:
    """Every quantity of every file over the questions that all files answer, and its difference from the first file.

    files: all scored with the same rewards.

    Returns a mapping with
    - "task", "metric" (of the records), "method" and "n" (number of common questions);
    - "files": [{"name", "results", "model", "n", "left_out"}];
    - "rows": [{"quantity", "scorer", "values": one per file, "differences": one per file, the first None}]. There
      are rows with the scorer "strict" (see `ScorerName`) and, if every record has a `compat`, with "compat".
    Values and differences are {"mean", "low", "high", "n"} with 95 % intervals, or None if a file lacks the quantity.
    A difference is paired: the mean of the differences over all questions for which both files have the quantity.

    Raises DataError if no question is in all files, or if two files have different truths for one question.

    Example: accuracies 1, 0, 1 and 1, 1, 1: a difference of 1/3 over 3 questions.
    """
    common = _common_questions(files)
    names = _names([scored.results for scored in files])
    task = files[0].task
    rows = [row for scorer in _scorers(files) for row in _rows(files, common, threshold, scorer)]
    return {
        "task": task,
        "metric": ", ".join(sorted({record.metric for scored in files for record in scored.records})),
        "method": METHOD,
        "n": len(common),
        "files": [
            {
                "name": name,
                "results": str(scored.results.path),
                "model": scored.results.model,
                "n": len(_truths(scored)),
                "left_out": len(_truths(scored)) - len(common),
            }
            for name, scored in zip(names, files, strict=True)
        ],
        "rows": rows,
    }


def comparison_table(comparison: Mapping[str, Any], threshold: float) -> Table:
    """The table in percent: the values of the first file (A), then for each other file its values and differences to A.

    Rows with the scorer "compat" (see `ScorerName`) are left out for a reward with one scorer, such as vqa.
    """
    from rich.table import Table
    from rich.text import Text

    title = f"Comparison ({comparison['metric']}, %, 95 % intervals, n={comparison['n']} common questions)"
    table = Table(title=Text(title), title_justify="left")
    table.add_column("")
    reward = BUILT_IN[comparison["task"]]
    first, *others = marks(len(comparison["files"]))
    table.add_column(first, justify="right")
    for mark in others:
        table.add_column(mark, justify="right")
        table.add_column(f"{mark} − {first}", justify="right")
    for row in comparison["rows"]:
        if row["scorer"] == "compat" and reward.compat is reward.score:
            continue
        sign = "+" if row["quantity"] == "information_gain" else ""
        cells = [cell(row["values"][0], sign)]
        for value, difference in zip(row["values"][1:], row["differences"][1:], strict=True):
            cells += [cell(value, sign), cell(difference, "+")]
        label = quantity_label(row["quantity"], threshold) + (", compat" if row["scorer"] == "compat" else "")
        table.add_row(Text(visible(label)), *map(Text, cells))
    return table


def legend(comparison: Mapping[str, Any]) -> list[str]:
    """Lines to print below the table: for each file its mark in the table's header (`marks`), its name, its model and
    how many of its questions are left out; then how the differences were computed."""
    lines = [
        f"{mark}: {file['name']}, model {file['model']}, {file['n']} questions, {file['left_out']} of them left out"
        for mark, file in zip(marks(len(comparison["files"])), comparison["files"], strict=True)
    ]
    return [*map(visible, lines), f"differences: {comparison['method']}"]


def marks(number: int) -> list[str]:
    """Short names of what is compared: A to Z, then 27, 28 ..."""
    return [*ascii_uppercase, *map(str, range(27, number + 1))][:number]


def _scorers(files: Sequence[Scored]) -> tuple[ScorerName, ...]:
    both = all(record.compat is not None for scored in files for record in scored.records)
    return ("strict", "compat") if both else ("strict",)


def _rows(
    files: Sequence[Scored], common: frozenset[str], threshold: float | None, scorer: ScorerName
) -> list[dict[str, Any]]:
    records: list[list[EvalRecord]] = [
        [record for record in scored.records if record.prompt_id in common] for scored in files
    ]
    limit = threshold if scorer == "strict" else None
    values = [prompt_values(part, limit, scorer) for part in records]
    highest = max(highest_value(part, scorer) for part in records)
    return [
        {
            "quantity": quantity,
            "scorer": scorer,
            "values": [_interval(_having(part, quantity), quantity, highest) for part in values],
            "differences": [None, *(_difference(values[0], part, quantity, highest) for part in values[1:])],
        }
        for quantity in _quantities(values)
    ]


def _quantities(values: Sequence[Mapping[str, Mapping[str, float]]]) -> list[str]:
    """The quantities that at least one file has, in the order of the evaluation table."""
    found = dict.fromkeys(name for part in values for prompt in part.values() for name in prompt)
    mono = [name for name in found if name.startswith("mono/")]
    order = ["multi", *mono, "union", "information_gain", "conflict_rate", "share_over_threshold"]
    return [name for name in order if name in found]


def _having(values: Mapping[str, Mapping[str, float]], quantity: str) -> dict[str, float]:
    return {prompt_id: prompt[quantity] for prompt_id, prompt in values.items() if quantity in prompt}


def _interval(values: Mapping[str, float], quantity: str, highest: float) -> dict[str, Any] | None:
    return mean_interval(list(values.values()), *bounds(quantity, highest))


def _difference(
    first: Mapping[str, Mapping[str, float]], other: Mapping[str, Mapping[str, float]], quantity: str, highest: float
) -> dict[str, Any] | None:
    left, right = _having(first, quantity), _having(other, quantity)
    low, high = bounds(quantity, highest)
    pairs = [right[prompt_id] - left[prompt_id] for prompt_id in left if prompt_id in right]
    return mean_interval(pairs, low - high, high - low)


def _common_questions(files: Sequence[Scored]) -> frozenset[str]:
    truths = [_truths(scored) for scored in files]
    first = files[0].results
    common = set(truths[0])
    for scored, own in zip(files[1:], truths[1:], strict=True):
        pair = f"{first.path} and {scored.results.path} answer different questions"
        if first.public != scored.results.public:
            raise DataError(
                f"{pair}: one is in the public format, in which questions have no ids; give two files of the same kind"
            )
        if first.public and len(own) != len(truths[0]):
            raise DataError(
                f"{pair}: they have {len(truths[0])} and {len(own)}, and questions without ids are paired by position"
            )
        shared = [prompt_id for prompt_id in truths[0] if prompt_id in own]
        if not shared:
            raise DataError(f"{pair}: no question is in both; ask both models the same questions")
        for prompt_id in shared:
            if truths[0][prompt_id] != own[prompt_id]:
                difference = _both(truths[0], own, prompt_id)
                raise DataError(f"{pair}: the truth of question {visible(prompt_id)} is {difference}")
        common &= own.keys()
    if not common:
        raise DataError(f"{first.path} and the others: no question is in all of them; compare two at a time")
    return frozenset(common)


def _both(first: Mapping[str, str], other: Mapping[str, str], prompt_id: str) -> str:
    return f"{first[prompt_id][:80]!r} in one and {other[prompt_id][:80]!r} in the other"


def _truths(scored: Scored) -> dict[str, str]:
    return {answer.prompt_id: answer.truth for answer in scored.results.answers}


def _names(results: Sequence[Results]) -> list[str]:
    """The files' names. If any two are the same, the paths of all files instead."""
    names = [result.name for result in results]
    return names if len(set(names)) == len(names) else [str(result.path) for result in results]
