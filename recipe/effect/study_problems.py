"""Finds problems in the file of a study, one line for each: types, keys, and metrics that no run has."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mars.config.problem import Problem
from mars.errors import ConfigError

METRICS_PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
_NO_STEP = ("eval/", "sft/")  # an evaluation is not of every step, and a cold start is no run of a study
_SEEDS = 'write the seeds as a text such as "0-3,7"'


def field_problems(model: type[BaseModel], error: ValidationError) -> list[Problem]:
    """pydantic's errors of a file whose content should be a `model`."""
    return [_field_problem(model, details) for details in error.errors()]


def metric_problem(key: str, metric: str) -> Problem | None:
    """None if docs/metrics.md has `metric` among the metrics of a training step; else the problem.

    Raises ConfigError without that page.
    """
    if any(pattern.fullmatch(metric) for pattern, _ in _metrics()):
        return None
    close = get_close_matches(metric, [name for _, name in _metrics()], n=1)
    likely = f"did you mean {close[0]}? " if close else ""
    return Problem(key, "no metric of a training step", f"{likely}docs/metrics.md has all of them", got=metric)


@cache
def _metrics() -> Sequence[tuple[re.Pattern[str], str]]:
    """(pattern, name) of each step metric of docs/metrics.md. <source> and the like match a name without a slash."""
    try:
        page = METRICS_PAGE.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"primary.metric: {METRICS_PAGE} cannot be read ({error.strerror}), which has the metrics of a run; start "
            "the study in a copy of the whole project"
        ) from error
    names = re.findall(r"^\| `([^`]+)` \|", page, flags=re.MULTILINE)
    parts = [(name, re.split(r"<\w+>", name)) for name in names if not name.startswith(_NO_STEP)]
    return [(re.compile("[^/]+".join(map(re.escape, fixed))), name) for name, fixed in parts]


def _field_problem(model: type[BaseModel], details: ErrorDetails) -> Problem:
    location = details["loc"]
    key, known = ".".join(map(str, location)), list(_fields(model, location[:-1]))
    if details["type"] == "missing":
        return Problem(key, "not set", "add it; recipe/effect/study.yaml shows how")
    if details["type"] == "extra_forbidden":
        close = get_close_matches(str(location[-1]), known, n=1)
        do = f"did you mean {close[0]}?" if close else f"the keys here are {', '.join(known)}"
        return Problem(key, "unknown key", do, got=details["input"])
    wrong = details["msg"][:1].lower() + details["msg"][1:]
    do = _SEEDS if location[0] == "seeds" else "correct it; recipe/effect/study.yaml shows how"
    return Problem(key, wrong, do, got=details["input"])


def _fields(model: type[BaseModel], location: Sequence[int | str]) -> Iterator[str]:
    """Names of the keys that the section at `location` may have."""
    section: Any = model
    for part in location:
        found = section.model_fields.get(part) if _is_section(section) else None
        section = found.annotation if found is not None else next(iter(get_args(section)[::-1]), None)
    yield from section.model_fields if _is_section(section) else ()


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
