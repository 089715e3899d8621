"""Choose the questions that a page about an evaluation shows."""

from __future__ import annotations

from collections.abc import Sequence

from mars.algorithms.tolerance import SCORE_TOLERANCE
from mars.answers.record import Answer, by_question
from mars.report.choice import evenly, shares

_RIGHT = 0.5  # least accuracy of an answer that the page calls right: for boxes, a mean IoU of 0.5


def choose_examples(answers: Sequence[Answer], count: int) -> tuple[list[list[Answer]], str]:
    """The scored answers to at most `count` questions, and a sentence that says how they were chosen.

    Three groups give the same number of questions each, if they have so many:
    - conflicts (`is_conflict`), those with the largest difference first;
    - other questions with a mean accuracy below 50 %, evenly spread over the file;
    - the remaining questions, evenly spread over the file.
    Accuracy is that of the answers to all images, or, if there are none, of the best other view.
    """
    questions = by_question(answers)
    conflicts = sorted((group for group in questions if is_conflict(group)), key=_rank)
    others = [group for group in questions if not is_conflict(group)]
    wrong = [group for group in others if _accuracy(group) < _RIGHT - SCORE_TOLERANCE]
    right = [group for group in others if _accuracy(group) >= _RIGHT - SCORE_TOLERANCE]
    numbers = shares([len(conflicts), len(wrong), len(right)], count)
    chosen = [*conflicts[: numbers[0]], *evenly(wrong, numbers[1]), *evenly(right, numbers[2])]
    said = (
        f"{len(chosen):,} of {len(questions):,} questions: {numbers[0]:,} of {len(conflicts):,} in which a single "
        f"source does better than all together, the largest differences first; {numbers[1]:,} of the {len(wrong):,} "
        f"others with an accuracy below 50 %; {numbers[2]:,} of the {len(right):,} with one of at least 50 %."
    )
    return chosen, said + (" --questions N shows more." if len(chosen) < len(questions) else "")


def is_conflict(answers: Sequence[Answer]) -> bool | None:
    """Whether the best other view has a higher mean accuracy than the view with all images; None if the view with all
    images, or every other view, has no answer with a reward. A failed reward counts as accuracy 0. Answers to extra
    requests, and anchors of `anchor.kind=forced_source`, are left out.

    answers: all answers to one question.
    """
    multi, mono = _means(answers)
    return None if multi is None or mono is None else multi < mono - SCORE_TOLERANCE


def _rank(answers: Sequence[Answer]) -> tuple[int, int, int]:
    multi, mono = _means(answers)
    assert multi is not None
    assert mono is not None
    # Rounded to multiples of the tolerance, so that rounding errors do not decide the order.
    return round((multi - mono) / SCORE_TOLERANCE), round(multi / SCORE_TOLERANCE), answers[0].number


def _accuracy(answers: Sequence[Answer]) -> float:
    multi, mono = _means(answers)
    return next((value for value in (multi, mono) if value is not None), 0.0)


def _means(answers: Sequence[Answer]) -> tuple[float | None, float | None]:
    """(mean accuracy of answers to all images, highest mean accuracy of another view); None without such answers."""
    by_view: dict[object, list[float]] = {}
    for answer in answers:
        if answer.extra is None and answer.reward is not None:
            worth = 0.0 if answer.reward.failed is not None else answer.reward.accuracy
            by_view.setdefault(answer.view, []).append(worth)
    means = {view: sum(values) / len(values) for view, values in by_view.items()}
    multi = means.pop(None, None)
    return multi, max(means.values(), default=None)
