"""The public result format: a JSON list of {content: [text], ground_truth}."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mars.answers.record import Answer, by_question
from mars.data.rows.choices import with_plain_choices
from mars.errors import DataError
from mars.output.files import read_bytes
from mars.output.problems import refuse


def read_public(path: Path) -> tuple[Answer, ...]:
    """The answers of a file in the public format. An entry's position is its prompt id; each of its texts is an answer.

    Raises DataError if the file is not a list or the list is empty, or if entries cannot be used (with a table of all
    such entries).
    """
    try:
        entries = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not JSON: {error}; want a list of {{content: [text], ground_truth}}") from error
    if not isinstance(entries, list) or not entries:
        got = "an empty list" if entries == [] else type(entries).__name__
        hint = "the answers of a run are in .jsonl files"
        raise DataError(f"{path}: want a list of {{content: [text], ground_truth}}; got {got}; {hint}")
    answers: list[Answer] = []
    problems: list[tuple[str, str]] = []
    for number, entry in enumerate(entries):
        try:
            answers += _answers(path, number, entry)
        except ValueError as error:
            problems.append((f"{path}:{number}", str(error)))
    refuse(problems, path, len(entries), "entries")
    return tuple(answers)


def public_entries(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """The answers to one view in the public format, in question order.

    `content` holds all answers to the question. A truth that lists boxes becomes a list.
    """
    return [
        {"content": [answer.text for answer in group], "ground_truth": _public_truth(group[0].truth)}
        for group in by_question(sorted(answers, key=lambda answer: answer.order))
    ]


def _public_truth(truth: str) -> Any:
    try:
        value = json.loads(truth)
    except (ValueError, RecursionError):
        return truth
    if not isinstance(value, list):
        return truth
    return [entry.get("bbox_2d", entry) if isinstance(entry, dict) else entry for entry in value]


def _answers(path: Path, number: int, entry: Any) -> list[Answer]:
    if not isinstance(entry, dict):
        raise ValueError(f"want {{content: [text], ground_truth}}; got {type(entry).__name__}")
    texts, extra = entry.get("content"), entry.get("extra_info") or {}
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"content: want a list of texts; got {str(texts)[:80]!r}")
    if not isinstance(extra, dict):
        raise ValueError(f"extra_info: want an object; got {type(extra).__name__}")
    extra = with_plain_choices(extra)
    truth, label = _truth(entry.get("ground_truth")), f"{path}:{number}"
    return [
        Answer(str(number), number, label, path.stem, None, sample, text, truth, None, None, extra)
        for sample, text in enumerate(texts)
    ]


def _truth(value: Any) -> str:
    finite = not isinstance(value, float) or math.isfinite(value)
    if value is None or isinstance(value, bool) or not finite:
        raise ValueError(f"ground_truth: want a text or a list of boxes; got {value!r}")
    return value if isinstance(value, str) else json.dumps(value)
