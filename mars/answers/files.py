"""Files of answers: JSON Lines, one answer per line. All code reads and writes answers with this module.

`mars eval infer` appends answers to its file as they come. A run writes complete files, one per step:
rollouts/step_000010.jsonl (sampled rollouts) and evaluation/step_000010.jsonl (held-out set).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mars.answers.record import Answer, Size
from mars.output.files import append, read_bytes, write_atomically
from mars.output.problems import refuse
from mars.types import ImageRef, Message, RewardResult, Source

# Larger than any readable image, small enough for exact arithmetic.
_MAX_SIDE = 10**8

_NOTES = 10
_STEP_FILE = re.compile(r"step_([0-9]+)\.jsonl?")


def step_file(folder: Path, step: int) -> Path:
    """The file with the answers of one step of a run: <folder>/step_000010.jsonl."""
    return folder / f"step_{step:06d}.jsonl"


def step_of(path: Path) -> int | None:
    """The step of a `step_file`, or of a .json file with the same name beside it; None for other files."""
    match = _STEP_FILE.fullmatch(path.name)
    return None if match is None else int(match[1])


def write_answers(path: Path, answers: Iterable[Answer]) -> None:
    """Write a file of answers atomically. Raises SetupError."""
    write_atomically(path, "".join(map(to_line, answers)))


def append_answers(path: Path, answers: Iterable[Answer]) -> None:
    """Add answers to a file. Raises SetupError; the file may then end in the middle of a line."""
    append(path, "".join(map(to_line, answers)))


@dataclass(frozen=True)
class AnswerFile:
    """What a file of answers holds.

    answers: the usable answers, sorted by `Answer.order`.
    problems: ("file:line", what is wrong) of each line that cannot be used. Lines count from 0.
    is_cut: whether the file's last line cannot be parsed, as when its writer was stopped in the middle of it. This line
        is the last of the problems.
    """

    path: Path
    answers: tuple[Answer, ...]
    problems: tuple[tuple[str, str], ...]
    num_lines: int
    is_cut: bool

    @property
    def notes(self) -> list[str]:
        """The first few problems as lines of text, and how many more there are."""
        notes = [f"{place}: left out ({problem})" for place, problem in self.problems[:_NOTES]]
        more = len(self.problems) - len(notes)
        return [*notes, f"{self.path}: {more} more lines are left out"] if more else notes

    def checked(self, *, allow_cut: bool = False) -> tuple[Answer, ...]:
        """The answers, if the file has no problems; with `allow_cut` its last line may be cut off.

        Raises DataError with all problems otherwise.
        """
        problems = self.problems[:-1] if self.is_cut and allow_cut else self.problems
        refuse(problems, self.path, self.num_lines, "lines")
        return self.answers


def read_answers(path: Path) -> AnswerFile:
    """Read a file of answers. Lines that cannot be used, or contradict earlier ones, are left out and listed.

    Raises DataError where the file cannot be read at all.
    """
    lines = read_bytes(path).split(b"\n")
    if not lines[-1]:
        lines.pop()
    answers: dict[Any, Answer] = {}
    truths: dict[Any, str] = {}
    problems: list[tuple[str, str]] = []
    is_cut = False
    for number, line in enumerate(lines):
        place = f"{path}:{number}"
        try:
            answer = from_record(json.loads(line))
        except (ValueError, RecursionError) as error:
            problems.append((place, str(error)))
            is_cut = number == len(lines) - 1
            continue
        contradictions = []
        if answer.key in answers:
            contradictions.append((place, f"the same answer as an earlier line: {answer.key}"))
        # The truth of an extra request may depend on the rollout that the request is about.
        asked = answer.prompt_id if answer.extra is None else answer.key[:4]
        if truths.setdefault(asked, answer.truth) != answer.truth:
            contradictions.append((place, f"another truth than in an earlier line of prompt {answer.prompt_id}"))
        problems += contradictions
        if not contradictions:
            answers[answer.key] = answer
    in_order = tuple(sorted(answers.values(), key=lambda answer: answer.order))
    return AnswerFile(path, in_order, tuple(problems), len(lines), is_cut)


def to_line(answer: Answer) -> str:
    """The answer as one line of strict JSON in ASCII, so that `cat` shows no control characters.

    NaN and infinities become null; values for which JSON has no type (such as a date in extra_info) become text.
    """
    return json.dumps(_without_nan(to_record(answer)), default=str, allow_nan=False) + "\n"


def to_record(answer: Answer) -> dict[str, Any]:
    """The answer as a JSON object. `extra` and `about` are left out if `extra` is None, `guest` if it is false."""
    fields = dict(vars(answer))
    if not answer.guest:
        del fields["guest"]
    if answer.extra is None:
        del fields["extra"], fields["about"]
    return {
        **fields,
        "view": None if answer.view is None else list(answer.view),
        "question": [{"role": message.role, "text": message.text} for message in answer.question],
        "sources": [{"name": source.name, "image": dict(vars(source.image))} for source in answer.sources],
        "reward": None if answer.reward is None else dict(vars(answer.reward)),
    }


def from_record(record: Any) -> Answer:
    """The inverse of `to_record`. Keys that may be null may be missing, except for view, truth_size and
    response_size.

    Raises ValueError naming the key that is missing or of the wrong kind.
    """
    if not isinstance(record, dict):
        raise ValueError(f"want an object; got {type(record).__name__}")
    view = _value(record, "view", list | None)
    if view is not None and not (view and all(isinstance(name, str) for name in view)):
        raise ValueError(f"view: want null or a list of sources; got {str(view)[:80]}")
    question, sources = _value(record, "question", list), _value(record, "sources", list)
    truth_size = size_of(_value(record, "truth_size", list | None), "truth_size")
    response_size = size_of(_value(record, "response_size", list | None), "response_size")
    if (truth_size is None) != (response_size is None):
        raise ValueError(f"truth_size, response_size: want both or neither; got {truth_size} and {response_size}")
    reward = _optional(record, "reward", dict)
    return Answer(
        prompt_id=_value(record, "prompt_id", str),
        number=_count(record, "number"),
        row=_value(record, "row", str),
        data_source=_value(record, "data_source", str),
        view=None if view is None else tuple(view),
        sample=_count(record, "sample"),
        text=_value(record, "text", str),
        truth=_value(record, "truth", str),
        truth_size=truth_size,
        response_size=response_size,
        extra_info=_value(record, "extra_info", dict),
        finish_reason=_optional(record, "finish_reason", str),
        prompt_tokens=None if record.get("prompt_tokens") is None else _count(record, "prompt_tokens"),
        response_tokens=None if record.get("response_tokens") is None else _count(record, "response_tokens"),
        question=tuple(Message(_value(turn, "role", str), _value(turn, "text", str)) for turn in question),
        sources=tuple(Source(_value(source, "name", str), _image(_value(source, "image", dict))) for source in sources),
        reward=None if reward is None else _reward(reward),
        step=None if record.get("step") is None else _count(record, "step"),
        extra=_optional(record, "extra", str),
        about=None if record.get("extra") is None or record.get("about") is None else _count(record, "about"),
        guest=_optional(record, "guest", bool) or False,
    )


def size_of(value: Any, key: str) -> Size | None:
    """A record's value [width, height] as a tuple; None for null. Raises ValueError for other values."""
    if value is None:
        return None
    good = isinstance(value, list) and len(value) == 2 and all(type(side) is int for side in value)
    if not good or not all(0 < side <= _MAX_SIDE for side in value):
        wanted = f"two whole numbers from 1 to {_MAX_SIDE}, width and height"
        raise ValueError(f"{key}: want {wanted}; got {str(value)[:80]}")
    return value[0], value[1]


def _reward(record: dict[str, Any]) -> RewardResult:
    parts = _value(record, "parts", dict)
    return RewardResult(
        score=_number(record, "score"),
        accuracy=_number(record, "accuracy"),
        parts={name: _number(parts, name) for name in parts},
        failed=_optional(record, "failed", str),
    )


def _number(record: dict[str, Any], key: str) -> float:
    """A finite number, or NaN for null."""
    value = _value(record, key, int | float | None)
    try:
        return math.nan if value is None else float(value)
    except OverflowError as error:
        raise ValueError(f"{key}: want a number; got an integer that is too large for a float") from error


def _image(record: dict[str, Any]) -> ImageRef:
    size = size_of(_value(record, "size", list), "size")
    if size is None:
        raise ValueError("size: want two positive whole numbers; got null")
    return ImageRef(
        _value(record, "path", str),
        size,
        _value(record, "encoding", str),
        _optional(record, "row", int),
        _optional(record, "slot", int),
        size_of(record.get("resized"), "resized"),
    )


def _optional(record: Any, key: str, kind: Any) -> Any:
    return None if isinstance(record, dict) and record.get(key) is None else _value(record, key, kind)


def _count(record: Any, key: str) -> int:
    value = _value(record, key, int)
    if value < 0:
        raise ValueError(f"{key}: want a whole number from 0; got {value}")
    return value


def _value(record: Any, key: str, kind: Any) -> Any:
    if not isinstance(record, dict) or key not in record:
        raise ValueError(f"{key}: is missing")
    value = record[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        wanted = getattr(kind, "__name__", str(kind))
        raise ValueError(f"{key}: want {wanted}; got {type(value).__name__}")
    return value


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
