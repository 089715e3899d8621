"""Answers as text for the terminal: `mars eval show`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from mars.answers.record import Answer, by_question
from mars.output.text import shorten, visible
from mars.report.page import MAX_CHARACTERS


def answer_lines(answers: Sequence[Answer], max_questions: int | None) -> Iterator[str]:
    """The lines to print: each question with its truth and its answers. Control characters are escaped.

    Example: "multi 0 · score 1.3 (accuracy 1, format 0.3) · 24 tokens", the answer's text indented below it.
    """
    for group in by_question(answers)[:max_questions]:
        first = group[0]
        yield visible(f"{first.data_source} · {first.row} · {first.prompt_id}")
        for message in first.question:
            yield from _block(message.role, message.text)
        yield from _block("truth", first.truth)
        for answer in group:
            yield from _block(_heading(answer), answer.text)
        yield ""


def reward_texts(answer: Answer) -> tuple[str, str]:
    """(score, parts) to show: ("1.3", "accuracy 1, format 0.3"). A dash stands for NaN; ("–", "") without a reward."""
    if answer.reward is None:
        return "–", ""
    parts = ", ".join(f"{name} {_number(value)}" for name, value in answer.reward.parts.items())
    return _number(answer.reward.score), parts


def _heading(answer: Answer) -> str:
    facts = [f"{answer.label} {answer.sample}"]
    if answer.reward is not None:
        score, parts = reward_texts(answer)
        facts.append(f"score {score} ({parts})" if parts else f"score {score}")
        if answer.reward.failed is not None:
            facts.append(f"failed: {answer.reward.failed}")
    if answer.response_tokens is not None:
        facts.append(f"{answer.response_tokens} tokens")
    if answer.finish_reason == "length":
        facts.append("cut off at the token limit")
    return " · ".join(facts)


def _block(heading: str, text: str) -> list[str]:
    shown = visible(shorten(text, MAX_CHARACTERS), keep="\n\t")
    return [f"  {visible(heading)}", *(f"    {line}" for line in shown.split("\n"))]


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}"
