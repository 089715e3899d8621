"""What `mars eval score` prints and the page it writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from mars.evaluation.files import Results, read_results
from mars.evaluation.score import Frames, ScoredAnswer, Task, result_of, sample_cards, score_results
from mars.evaluation.tables import by_scorer, evaluation_table, print_table
from mars.output.files import cannot_write
from mars.output.text import visible
from mars.report.run_page import DecodeImage, write_evaluation_page

# Questions with their pictures on a page: enough to look at, small enough to mail.
_SAMPLES = 24


def score_file(
    path: Path, task: Task, threshold: float, frames: Frames | None
) -> tuple[Results, list[ScoredAnswer], dict[str, Any]]:
    """The file, its scored answers, and the result as `result_of` gives it. Raises as `read_results` and
    `score_results` do."""
    results = read_results(path)
    scored = score_results(results, task, frames)
    return results, scored, result_of(results, task, threshold, scored)


def show_scores(result: Mapping[str, Any]) -> None:
    """The tables, and what else a reader must know, to stdout."""
    show_tables(result)
    for line in _facts(result):
        Console(highlight=False).print(Text(visible(line)), soft_wrap=True)


def show_tables(result: Mapping[str, Any]) -> None:
    """Both scorers side by side, over everything and for each data source where there are several, to stdout."""
    for title, part in _parts(result):
        print_table(evaluation_table(by_scorer(part), title))


def write_page(
    path: Path, result: Mapping[str, Any], scored: Sequence[ScoredAnswer], decode_image: DecodeImage
) -> None:
    """The tables, and samples with pictures, boxes and answers, as one HTML file. Text of others is escaped."""
    tables = [(title, by_scorer(part)) for title, part in _parts(result)]
    name, model = str(result["name"]), str(result["model"])
    try:
        write_evaluation_page(path, name, model, tables, sample_cards(scored, _SAMPLES), _facts(result), decode_image)
    except OSError as error:
        raise cannot_write(path, error, "--html") from error


def _parts(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """(title, result) of everything, and of each data source where there are several."""
    sources = result["by_data_source"]
    parts = [("Evaluation", result)]
    if len(sources) > 1:
        parts += [(name, {**result, **part}) for name, part in sources.items()]
    return parts


def _facts(result: Mapping[str, Any]) -> list[str]:
    """What a reader of the numbers must know and the table does not say."""
    lines = [f"{result['answers']} answers to {result['n']} questions; unparseable ones count as wrong"]
    if result["cut_off"]:
        lines.append(f"{result['cut_off']} answers were cut off at the token limit")
    if result["frames"] is not None:
        lines.append(f"frames of the boxes: {result['frames']}")
    if result["dropped"]:
        lines.append(f"questions dropped before anything was asked, by reason: {dict(result['dropped'])}")
    return lines
