"""`mars reward try`: shows how a reward reads and scores answers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from mars.config.folders import shipped_folder
from mars.data.rows.choices import with_plain_choices
from mars.errors import ConfigError
from mars.output.text import shorten, visible
from mars.rewards.contract import ScorerName
from mars.rewards.trial import Reading, Trial, item_of, read_items, run_trials, trial_record
from mars.types import RewardInput

# Limits of each text and each list of boxes, so that a broken answer does not fill the terminal. --json has no limits.
_MAX_CHARS_SHOWN = 400
_MAX_BOXES_SHOWN = 12


def try_reward(
    name: str,
    scorer: ScorerName,
    text: str | None,
    file: Path | None,
    fields: Mapping[str, Any],
    *,
    by_prompt: bool = False,
    as_json: bool,
) -> None:
    """Scores `text`, or the responses of a JSONL file, and writes the results to stdout.

    fields: truth, choices and so on, as for `mars.rewards.trial.item_of`; a line's own fields override them.
    by_prompt: the reward function takes lists of answers, as with `reward.by_prompt`. Each list has one answer here.
    Raises ConfigError for wrong options, for a reward that cannot be loaded, and, after writing all results, if the
    reward failed on an answer; DataError for bad lines and truths.
    """
    rows = [
        (row, replace(item, extra_info=with_plain_choices(item.extra_info))) for row, item in _rows(text, file, fields)
    ]
    with _stdout_to_stderr():
        trials = list(run_trials(name, scorer, rows, _timeout_s(), by_prompt=by_prompt))
    if as_json:
        records = [{"reward": name, "scorer": scorer, **trial_record(trial)} for trial in trials]
        _write("".join(f"{json.dumps(record, allow_nan=False)}\n" for record in records))
    else:
        blocks = [describe(trial, name, scorer) for trial in trials]
        _write("\n".join(blocks if file is None else [*blocks, summary(trials)]))
    failed = [trial for trial in trials if trial.result.failed is not None]
    if failed:
        first = f"{failed[0].row} {failed[0].result.failed}".strip()
        raise ConfigError(
            f"reward.function: {name} failed on {len(failed)} of {len(trials)} answers; the first: {first}"
        )


def fields_of_options(
    truth: str | None,
    choices: Sequence[str] | None,
    truth_size: str | None,
    response_size: str | None,
    data_source: str | None,
    extra_info: str | None,
) -> dict[str, Any]:
    """The options of the command as fields for `mars.rewards.trial.item_of`. Raises ConfigError.

    Sizes are "1280x1024"; extra_info is JSON text.
    """
    fields: dict[str, Any] = {"truth": truth, "choices": choices or None, "data_source": data_source}
    for key, size in (("truth_size", truth_size), ("response_size", response_size)):
        width, _, height = (size or "").partition("x")
        if size is not None and not (width.isdecimal() and height.isdecimal() and len(size) < 20):
            raise ConfigError(
                f"--{key.replace('_', '-')}: not a size; got {size!r}; give width x height, such as 1280x1024"
            )
        fields[key] = None if size is None else [int(width), int(height)]
    try:
        fields["extra_info"] = None if extra_info is None else json.loads(extra_info)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--extra-info: is not JSON: {error}; give an object such as '{{\"id\": 7}}'") from error
    return fields


def describe(trial: Trial, name: str, scorer: str) -> str:
    """A block of lines with one fact each. Control characters are escaped."""
    reading, result = trial.reading, trial.result
    lines = [
        ("reward", f"{visible(name)}, {scorer} scorer"),
        *([("row", visible(trial.row))] if trial.row else []),
        ("think", _text(reading.think, "think")),
        ("answer", _text(reading.answer, "answer")),
        *[("boxes" if number == 0 else "", line) for number, line in enumerate(_boxes(reading))],
        ("truth", _shown(trial.item.truth)),
    ]
    if trial.item.truth_size and trial.item.response_size:
        frames = [f"{width} x {height}" for width, height in (trial.item.response_size, trial.item.truth_size)]
        lines.append(("frames", f"boxes in {frames[0]}, truth in {frames[1]}"))
    if result.failed is None:
        lines += [("parts", ", ".join(f"{visible(key)} {value:.6g}" for key, value in result.parts.items()) or "none")]
        lines += [("score", f"{result.score:.6g}"), ("accuracy", f"{result.accuracy:.6g}")]
    else:
        lines += [("failed", visible(result.failed))]
    lines.append(("time", f"{trial.seconds * 1000:.3f} ms"))
    return "".join(f"{key:<9} {value}".rstrip() + "\n" for key, value in lines)


def summary(trials: list[Trial]) -> str:
    """The means over all answers. A failed answer has accuracy 0 and does not count in the mean score."""
    scored = [trial.result for trial in trials if trial.result.failed is None]
    score = f"{fmean(result.score for result in scored):.6g}" if scored else "none"
    accuracy = sum(result.accuracy for result in scored) / len(trials)
    longest = max(trial.seconds for trial in trials) * 1000
    return (
        f"{len(trials)} answers, {len(trials) - len(scored)} failed: mean score {score}, "
        f"mean accuracy {accuracy:.6g}, longest time {longest:.3f} ms\n"
    )


def _rows(text: str | None, file: Path | None, fields: Mapping[str, Any]) -> list[tuple[str, RewardInput]]:
    if (text is None) == (file is None):
        got = "neither" if text is None else "both"
        raise ConfigError(
            f"--text, --file: exactly one of them is needed; got {got}; give an answer, or a JSONL file of answers"
        )
    if file is not None:
        return read_items(file, fields)
    try:
        return [("", item_of({**fields, "response": text}))]
    except ValueError as error:
        key, _, problem = str(error).partition(":")
        raise ConfigError(f"--{key.replace('_', '-')}:{problem}") from error


def _timeout_s() -> float:
    """The default of `reward.timeout_s`."""
    return yaml.safe_load((shipped_folder() / "reward" / "grounding.yaml").read_text(encoding="utf-8"))["timeout_s"]


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Redirects file descriptor 1, which reward processes inherit, to stderr. A user's prints then stay out of the
    result."""
    sys.stdout.flush()
    ours = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(ours, 1)
        os.close(ours)


def _write(text: str) -> None:
    """Write to stdout. Characters that its encoding lacks become escapes."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _text(text: str | None, tag: str) -> str:
    return f"none: the response must have exactly one <{tag}>…</{tag}>" if text is None else _shown(text)


def _shown(text: str) -> str:
    return visible(shorten(text, _MAX_CHARS_SHOWN)) or "(empty)"


def _boxes(reading: Reading) -> list[str]:
    if reading.boxes is None:
        return [] if reading.no_boxes is None else [f"none: {visible(reading.no_boxes)}"]
    shown = [
        f"malformed: {box}" if isinstance(box, str) else f"[{', '.join(f'{side:.6g}' for side in box)}]"
        for box in reading.boxes[:_MAX_BOXES_SHOWN]
    ]
    hidden = len(reading.boxes) - len(shown)
    return [*shown, *([f"… and {hidden} more"] if hidden else [])] or ["an empty list"]
