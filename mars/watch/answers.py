"""The newest answers of a run, one line for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from rich.console import Group, RenderableType
from rich.text import Text

from mars.answers.record import Answer
from mars.output.text import shorten
from mars.report.answers import reward_texts
from mars.watch.lines import columns_of_text, one_line

_PER_VIEW = 2  # answers to one view of a question
_CHARACTERS = 1000  # of an answer: more than the widest terminal shows


def answer_table(questions: Sequence[Sequence[Answer]], width: int, lines: int) -> RenderableType | None:
    """A heading, then for each question its truth and below it the first answers to each view, with their scores.
    At most `lines` lines in all.

    None if there are no answers.
    """
    if not questions:
        return None
    step = questions[0][0].step
    title = one_line("answers" if step is None else f"answers of step {step}", "bold")
    shown = list(islice(_cells(questions), lines - 1))
    rows = [
        [one_line(label, style), Text(score, style=style), _text(text, style)] for label, score, text, style in shown
    ]
    return Group(title, columns_of_text(rows, width))


def _cells(questions: Iterable[Sequence[Answer]]) -> Iterator[tuple[str, str, str, str]]:
    """(label, score, text, style) of each line: a question's truth, then the first answers to each of its views."""
    for answers in questions:
        yield "truth", "", answers[0].truth, "dim"
        shown: Counter[str] = Counter()
        for answer in answers:
            shown[answer.label] += 1
            if shown[answer.label] <= _PER_VIEW:
                yield answer.label, reward_texts(answer)[0], answer.text, ""


def _text(text: str, style: str) -> Text:
    return one_line(" ".join(shorten(text, _CHARACTERS).split()), style)
