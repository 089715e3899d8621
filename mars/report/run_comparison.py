"""Several runs beside each other: what is compared, and the tables of it that a terminal and a page show."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from mars.evaluation.compare import METHOD
from mars.evaluation.run_pairs import Pair
from mars.evaluation.tables import cell, quantity_label

Differences = Mapping[str, Sequence[Any]]
"""Name -> the value of each run, ABSENT where a run has none. Only names whose values differ."""

Row = tuple[str, list[str]]
"""(label, one cell per run)."""

ABSENT = object()
"""Stands for a value that a run does not have. None is a value: a setting can be null, and so can a metric."""

NONE = "–"
_SIX_DIGITS = ".6g"
_USUAL = ("started", "checkpoint_saved", "finished")
_STEPS_SHOWN = 5
_VALUE_CHARACTERS = 120  # most characters of a value
_SAME_CHARACTERS = 30  # shown before the place where values begin to differ


@dataclass(frozen=True)
class ComparedRun:
    """One of several runs.

    mark: "A", "B", ... name: as given by `run_names`.
    state: as `mars runs ls` shows it.
    step: of the last metrics. last_step: the planned end.
    score, evaluation: the last score, and the last value of an evaluation.
    metrics: rows of metrics.jsonl. events: those of events.jsonl.
    evaluations: results of evaluations, in the order of steps.
    settings: dotted key -> value. versions: packages and code of the last attempt.
    notes: what is missing or damaged.
    """

    mark: str
    name: str
    folder: str
    state: str
    step: int | None
    last_step: int | None
    score: float | None
    evaluation: float | None
    metrics: Sequence[Mapping[str, Any]]
    evaluations: Sequence[Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    versions: Mapping[str, Any]
    notes: Sequence[str]

    @property
    def label(self) -> str:
        return f"{self.mark} {self.name}"

    @property
    def progress(self) -> str:
        """The step and the planned end: "40/200"."""
        return f"{_or_dash(self.step)}/{_or_dash(self.last_step)}"


@dataclass(frozen=True)
class RunComparison:
    """settings, versions, metrics: what differs between the runs. metrics: from each run's last line of metrics.jsonl,
    with its step. pairs: the evaluations of each run but the first, paired with those of the first run. threshold: mean
    IoU above which a multi answer is a hit in `pairs`."""

    runs: Sequence[ComparedRun]
    settings: Differences
    versions: Differences
    metrics: Differences
    pairs: Sequence[Pair]
    threshold: float | None

    @property
    def marks(self) -> list[str]:
        return [run.mark for run in self.runs]


def run_names(names: Sequence[str], folders: Sequence[str]) -> list[str]:
    """The names of runs. If several runs have the same name, the part of the folder that differs replaces it.

    folders: absolute paths.

    >>> run_names(["effect", "effect", "other"], ["/runs/mars/1", "/runs/none/1", "/runs/x"])
    ['mars/1', 'none/1', 'other']
    """
    counts = Counter(names)
    parents: dict[str, list[str]] = {}
    for name, folder in zip(names, folders, strict=True):
        parents.setdefault(name, []).append(os.path.dirname(folder))
    return [
        name if counts[name] == 1 else os.path.relpath(folder, os.path.commonpath(parents[name]))
        for name, folder in zip(names, folders, strict=True)
    ]


def differences(values: Sequence[Mapping[str, Any]], ignored: Iterable[str] = ()) -> dict[str, list[Any]]:
    """The names whose values are not the same in all runs, in the order in which they first occur.

    >>> differences([{"run.seed": 0, "run.dir": "a"}, {"run.seed": 1, "run.dir": "b"}], ["run.dir"])
    {'run.seed': [0, 1]}
    """
    names = dict.fromkeys(name for of_run in values for name in of_run if name not in set(ignored))
    found = {name: [of_run.get(name, ABSENT) for of_run in values] for name in names}
    return {name: of_all for name, of_all in found.items() if any(not _same(of_all[0], other) for other in of_all[1:])}


def difference_rows(found: Differences) -> list[Row]:
    """Text of the values: YAML on one line, numbers with six digits unless they differ in later ones. Long texts are
    cut to the part where they begin to differ."""
    rows = []
    for name, values in found.items():
        cells = [_shown(value, _SIX_DIGITS) for value in values]
        rows.append((name, _cut(cells if len(set(cells)) > 1 else [_shown(value, "r") for value in values])))
    return rows


def event_rows(runs: Sequence[ComparedRun]) -> list[Row]:
    """How often each event happened in each run, and after which steps: "2 (steps 40, 80)". The
    events `started`, `checkpoint_saved` and `finished` are left out."""
    names = sorted({entry["event"] for run in runs for entry in run.events} - set(_USUAL))
    return [(name, [_event_cell([e for e in run.events if e["event"] == name]) for run in runs]) for name in names]


def last_evaluations(runs: Sequence[ComparedRun]) -> list[tuple[ComparedRun, Mapping[str, Any]]]:
    """The last evaluation of each run that has any."""
    return [(run, run.evaluations[-1]) for run in runs if run.evaluations]


def pair_rows(comparison: Mapping[str, Any], threshold: float | None) -> list[Row]:
    """Each quantity in percent, strict scorer: the first run's value, the other's, the other's minus the first's."""
    return [
        (
            quantity_label(row["quantity"], threshold),
            [
                *(cell(value, "+" if row["quantity"] == "information_gain" else "") for value in row["values"]),
                cell(row["differences"][1], "+"),
            ],
        )
        for row in comparison["rows"]
        if row["scorer"] == "strict"
    ]


def method_of(pairs: Sequence[Pair]) -> str | None:
    """How the differences were computed; None if no evaluations are compared."""
    return METHOD if any(pair.comparisons for pair in pairs) else None


def _same(one: Any, other: Any) -> bool:
    both_nan = isinstance(one, float) and isinstance(other, float) and math.isnan(one) and math.isnan(other)
    return both_nan or one == other


def _shown(value: Any, form: str) -> str:
    if value is ABSENT:
        return NONE
    if isinstance(value, float):
        return repr(value) if form == "r" else format(value, form)
    if isinstance(value, str):
        return value
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _cut(cells: Sequence[str]) -> list[str]:
    """The cells. If one is too long, all are cut, and begin shortly before the first character that differs."""
    texts = [cell for cell in cells if cell != NONE]
    if max(map(len, cells)) <= _VALUE_CHARACTERS:
        return list(cells)
    columns = enumerate(zip(*texts, strict=False))
    same = next((place for place, letters in columns if len(set(letters)) > 1), min(map(len, texts)))
    start = max(0, same - _SAME_CHARACTERS) if len(texts) > 1 else 0
    end = start + _VALUE_CHARACTERS
    before = "… " if start else ""
    return [cell if cell == NONE else f"{before}{cell[start:end]}{' …' if len(cell) > end else ''}" for cell in cells]


def _event_cell(events: Sequence[Mapping[str, Any]]) -> str:
    steps = [str(entry["step"]) for entry in events if entry["step"] is not None]
    if not steps:
        return str(len(events)) if events else NONE
    more = f", … {len(steps) - _STEPS_SHOWN} more" if len(steps) > _STEPS_SHOWN else ""
    return f"{len(events)} (step{'s' if len(steps) > 1 else ''} {', '.join(steps[:_STEPS_SHOWN])}{more})"


def _or_dash(value: Any) -> str:
    return NONE if value is None else str(value)
