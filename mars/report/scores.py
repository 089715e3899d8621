"""What `mars eval score` prints, and the pages of `mars eval score` and `mars eval show`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from mars.answers.record import by_question
from mars.evaluation.files import Results, read_results
from mars.evaluation.score import Frames, Scored, Task, result_of, score_results
from mars.evaluation.tables import by_scorer, evaluation_table, print_table
from mars.output.console import VisibleConsole
from mars.output.text import visible
from mars.report.choice import evenly
from mars.report.examples import choose_examples
from mars.report.questions import DecodeImage
from mars.report.run_page import write_answers_page

# Questions with their images on a page.
_QUESTIONS = 24


def score_file(path: Path, task: Task, threshold: float, frames: Frames | None) -> tuple[Scored, dict[str, Any]]:
    """The scored answers of a result file, and the summary that `result_of` makes of them.

    Raises as `read_results` and `score_results` do.
    """
    scored = score_results(read_results(path), task, frames)
    return scored, result_of(scored, threshold)


def show_scores(result: Mapping[str, Any]) -> None:
    """Print the tables and the facts that a reader needs to judge them."""
    show_tables(result)
    for line in _facts(result):
        VisibleConsole(highlight=False).print(Text(visible(line)), soft_wrap=True)


def show_evaluation(result: Mapping[str, Any]) -> None:
    """Print the tables of an evaluation, the mean score with its parts, and how many answers were cut off.

    result: of `mars.evaluation.ask.Evaluation`.
    """
    show_tables(result)
    for line in (*_counts(result), *_reward_lines(result["reward"])):
        VisibleConsole(highlight=False).print(Text(visible(line)), soft_wrap=True)


def show_tables(result: Mapping[str, Any]) -> None:
    """Print tables of the scores: one over all data sources and, if there are several, one for each. A table has the
    strict and the compat scorer side by side, or only one column if there are no compat scores.
    """
    for title, part in _parts(result):
        print_table(evaluation_table(by_scorer(part), title))


def write_scores_page(
    path: Path, result: Mapping[str, Any], scored: Scored, max_questions: int | None, decode_image: DecodeImage
) -> None:
    """Write the tables and some questions, with images, boxes and answers, as one HTML file.

    max_questions: how many questions the page shows at most (`choose_examples`); None: 24.
    Raises SetupError where it cannot be written.
    """
    tables = [(title, by_scorer(part)) for title, part in _parts(result)]
    name, model = str(result["name"]), str(result["model"])
    questions, choice = choose_examples(scored.answers, max_questions or _QUESTIONS)
    write_answers_page(path, name, model, tables, "Samples", choice, questions, _facts(result), decode_image)


def write_results_page(
    path: Path, results: Results, max_questions: int | None, notes: Sequence[str], decode_image: DecodeImage
) -> None:
    """Write the answers of a file, scored or not, to the HTML page `path`. Raises SetupError if that fails.

    max_questions: how many questions the page shows at most, evenly spread over the file; None: 24.
    """
    questions = by_question(results.answers)
    shown = evenly(questions, max_questions or _QUESTIONS)
    samples = f"Answers to {len(shown):,} of {len(questions):,} questions"
    choice = None if len(shown) == len(questions) else "They are from everywhere in the file; --questions N shows more."
    write_answers_page(path, results.name, results.model, [], samples, choice, shown, notes, decode_image)


def _parts(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """(title, result) over all data sources, and, if there are several, for each."""
    sources = result["by_data_source"]
    parts = [("Evaluation", result)]
    if len(sources) > 1:
        parts += [(name, {**result, **part}) for name, part in sources.items()]
    return parts


def _facts(result: Mapping[str, Any]) -> list[str]:
    """Lines that go with the tables: numbers of answers and of cut-off ones, frames of boxes, questions left out."""
    lines = _counts(result)
    if result["frames"] is not None:
        lines.append(f"frames of the boxes: {result['frames']}")
    if result["dropped"]:
        lines.append(f"questions dropped before anything was asked, by reason: {dict(result['dropped'])}")
    if result["unreadable"]:
        lines.append(
            f"questions left out because an image could not be read: {'; '.join(result['unreadable'].values())}"
        )
    return lines


def _counts(result: Mapping[str, Any]) -> list[str]:
    wrong = "" if result["unparseable"] is None else "; unparseable ones count as wrong"
    lines = [f"{result['answers']} answers to {result['n']} questions{wrong}"]
    if result["cut_off"]:
        lines.append(f"{result['cut_off']} answers were cut off at the token limit")
    return lines


def _reward_lines(means: Mapping[str, Any] | None) -> list[str]:
    """The mean score and that of each part: "mean reward of 8 answers to all images: score 0.75, part close 0.5"."""
    if means is None:
        return []
    values = {"score": means["score"], **{f"part {name}": mean for name, mean in means["parts"].items()}}
    shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    return [f"mean reward of {means['n']} answers to all images: {shown}"]
