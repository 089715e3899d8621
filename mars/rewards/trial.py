"""Scores given answers for `mars reward try`, and shows for each what was parsed and how long it took."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mars.errors import DataError
from mars.output.text import visible
from mars.rewards.box_answers import read_boxes
from mars.rewards.built_in import has_boxes, is_built_in
from mars.rewards.contract import RewardScorer, ScorerName
from mars.rewards.functions import truth_check
from mars.rewards.grounding import MAX_EXTRA_BOXES, read_truth
from mars.rewards.local import LocalScorer
from mars.rewards.parsing import Box, parse_response
from mars.rewards.pool import RewardPool
from mars.types import RewardInput, RewardResult

_MAX_PROBLEMS_SHOWN = 20
_FIELDS = ("response", "truth", "data_source", "extra_info", "choices", "truth_size", "response_size")


@dataclass(frozen=True)
class Reading:
    """What was parsed in an answer.

    think, answer: the text between the tags, None where there is not exactly one pair.
    boxes: for each entry of the answer's list the box, or what is wrong with it; None if there is no list.
    no_boxes: why there is no list; None if there is one, and for rewards without boxes.
    """

    think: str | None
    answer: str | None
    boxes: tuple[Box | str, ...] | None
    no_boxes: str | None


@dataclass(frozen=True)
class Trial:
    """One scored answer. row: "file:line", or "" for an answer from the command line.

    seconds: CPU time for a built-in reward. For a user's function it is wall time, including the transfer to its
        process and back.
    """

    row: str
    item: RewardInput
    reading: Reading
    result: RewardResult
    seconds: float


def run_trials(
    spec: str,
    scorer: ScorerName,
    rows: Sequence[tuple[str, RewardInput]],
    timeout_s: float,
    *,
    by_prompt: bool = False,
) -> Iterator[Trial]:
    """Scores rows of (name, item) in order, each when the caller asks for its result.

    Built-in rewards run in this process. A user's function runs in a worker, as in a run: the worker is killed if an
    answer takes longer than `timeout_s` seconds. by_prompt: the function takes lists, so each row is
    passed to it as a list of one item.
    Raises, before the first answer is scored, ConfigError for a reward that cannot be loaded and DataError with all
    truths that the reward cannot use.
    """
    check = truth_check(spec)
    problems = [(row, check(item.truth, item.extra_info, item.truth_size)) for row, item in rows]
    _raise_all([f"{row}: {problem}" if row else problem for row, problem in problems if problem is not None])
    with closing(
        LocalScorer(spec, scorer) if is_built_in(spec) else RewardPool(spec, scorer, 1, timeout_s, by_prompt=by_prompt)
    ) as scores:
        for row, item in rows:
            yield _trial(spec, scores, row, item)


def read_answer(spec: str, item: RewardInput) -> Reading:
    """What mars parses in an answer to reward `spec`. A user's own function may parse something else.

    For a built-in reward with boxes, the item's truth must be well-formed.
    """
    response = parse_response(item.response)
    boxes, problem = None, None
    if has_boxes(spec) or not is_built_in(spec):  # a user's own function may be about boxes
        num_true = len(read_truth(item.truth)) if has_boxes(spec) else 0
        try:
            boxes = tuple(read_boxes(response, num_true + MAX_EXTRA_BOXES))
        except ValueError as error:
            problem = f"not JSON: {error}" if isinstance(error, json.JSONDecodeError) else str(error)
    return Reading(response.think, response.answer, boxes, problem if has_boxes(spec) else None)


def read_items(file: Path, common: Mapping[str, Any]) -> list[tuple[str, RewardInput]]:
    """(file:line, item) of a JSONL file. Raises DataError with all bad lines.

    Each line is an object with the keys of `item_of`, or a JSON string, the response. Keys that a line lacks are taken
    from `common`. Blank lines are skipped.
    """
    if file.exists() and not file.is_file():  # opening a named pipe would wait for its writer
        raise DataError(f"{file}: cannot be read: it is not a file; want a JSONL file of responses")
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}; want a JSONL file of responses") from error
    rows, problems = [], []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                rows.append((f"{file}:{number}", item_of(_line_fields(line, common))))
            except ValueError as error:
                problems.append(f"{file}:{number}: {error}")
    _raise_all(problems)
    if not rows:
        raise DataError(f"{file}: holds no responses; want one JSON object or text a line")
    return rows


def item_of(fields: Mapping[str, Any]) -> RewardInput:
    """An item of plain JSON values. Raises ValueError.

    response (a text) and truth (a text, or a JSON list): needed. data_source, extra_info (a mapping), choices
    (added to extra_info), truth_size and response_size (both or none; [width, height]): may be left out or null.
    """
    unknown = [key for key in fields if key not in _FIELDS]
    if unknown:
        raise ValueError(f"{unknown[0]!r}: no such key; want {', '.join(_FIELDS)}")
    given = {key: value for key, value in fields.items() if value is not None}
    for key in ("response", "truth"):
        if key not in given:
            raise ValueError(f"{key}: is missing; give a text")
    truth = given["truth"] if isinstance(given["truth"], str) else json.dumps(given["truth"])
    extra_info = _typed(given, "extra_info", dict, "a mapping", {})
    if "choices" in given:
        extra_info = {**extra_info, "choices": given["choices"]}
    sizes = [_size(given, key) for key in ("truth_size", "response_size")]
    if (sizes[0] is None) != (sizes[1] is None):
        raise ValueError("truth_size and response_size: only one is given; give both frames, or neither")
    return RewardInput(
        data_source=_typed(given, "data_source", str, "a text", "try"),
        view=None,
        response=_typed(given, "response", str, "a text", ""),
        truth=truth,
        truth_size=sizes[0],
        response_size=sizes[1],
        extra_info=extra_info,
    )


def trial_record(trial: Trial) -> dict[str, Any]:
    """The trial as JSON values. A malformed box is {"problem": what is wrong with it}."""
    reading, result = trial.reading, trial.result
    boxes = [{"problem": box} if isinstance(box, str) else list(box) for box in reading.boxes or ()]
    return {
        "row": trial.row or None,
        "think": reading.think,
        "answer": reading.answer,
        "boxes": None if reading.boxes is None else boxes,
        "no_boxes": reading.no_boxes,
        "truth": trial.item.truth,
        "truth_size": trial.item.truth_size,
        "response_size": trial.item.response_size,
        "parts": dict(result.parts),
        "score": result.score,
        "accuracy": result.accuracy,
        "failed": result.failed,
        "seconds": trial.seconds,
    }


def _trial(spec: str, scores: RewardScorer, row: str, item: RewardInput) -> Trial:
    clock = time.thread_time if is_built_in(spec) else time.perf_counter
    start = clock()
    (result,) = scores.score([item])
    seconds = clock() - start
    return Trial(row, item, read_answer(spec, item), result, seconds)


def _line_fields(line: bytes, common: Mapping[str, Any]) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:  # broken UTF-8 is a ValueError too
        raise ValueError(f"is not JSON: {error}") from error
    if isinstance(value, str):
        value = {"response": value}
    if not isinstance(value, dict):
        raise ValueError(f"want an object or a text; got {type(value).__name__}")
    return {**common, **value}


def _typed(fields: Mapping[str, Any], key: str, kind: type, wanted: str, otherwise: Any) -> Any:
    value = fields.get(key, otherwise)
    if not isinstance(value, kind):
        raise ValueError(f"{key}: got {type(value).__name__}; want {wanted}")
    return value


def _size(fields: Mapping[str, Any], key: str) -> tuple[int, int] | None:
    if key not in fields:
        return None
    size = fields[key]
    whole = isinstance(size, list | tuple) and all(type(side) is int and 0 < side < 10**6 for side in size)
    if not whole or len(size) != 2:
        raise ValueError(f"{key}: got {str(size)[:80]!r}; want two positive whole numbers, width and height")
    return size[0], size[1]


def _raise_all(problems: Sequence[str]) -> None:
    if problems:
        more = len(problems) - _MAX_PROBLEMS_SHOWN
        shown = [*map(visible, problems[:_MAX_PROBLEMS_SHOWN]), *([f"… and {more} more"] if more > 0 else [])]
        raise DataError("\n".join(shown))
