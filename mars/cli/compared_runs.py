"""Reads and compares several runs, for `mars runs diff` and `mars report A B`, and gives the result as text and
JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mars.cli.run_facts import checked_run, last_metrics, read_whole, settings_of, summary_of, versions_of
from mars.errors import ConfigError
from mars.evaluation.compare import marks
from mars.evaluation.run_pairs import ALL_SETS, EvaluatedRun, Pair, pair_runs
from mars.output.text import aligned, visible
from mars.report.run_comparison import (
    ABSENT,
    ComparedRun,
    Row,
    RunComparison,
    difference_rows,
    differences,
    method_of,
    pair_rows,
    run_names,
)
from mars.report.run_record import EVALUATION_FOLDER, RunRecord
from mars.rewards.functions import RewardsBySet
from mars.run_dir.attempt import attempts, read_attempt
from mars.run_dir.events import read_events
from mars.tracking.jsonl import finite_or_none

_NOT_COMPARED = ("run.dir", "run.resume")
_NOT_SHOWN = ("timing_s/", "perf/")  # metrics that differ in any two runs


def compared(run_dirs: Sequence[Path]) -> RunComparison:
    """Read the runs and compare them. Raises ConfigError as `check_runs` does."""
    check_runs(run_dirs)
    records = [read_whole(run_dir) for run_dir in run_dirs]
    summaries = [summary_of(run_dir, record) for run_dir, record in zip(run_dirs, records, strict=True)]
    names = run_names([run["name"] for run in summaries], [str(run_dir.resolve()) for run_dir in run_dirs])
    runs = [
        _run(mark, name, run_dir, record, facts)
        for mark, name, run_dir, record, facts in zip(
            marks(len(run_dirs)), names, run_dirs, records, summaries, strict=True
        )
    ]
    evaluated = [
        EvaluatedRun(run.mark, run_dir / EVALUATION_FOLDER, _rewards(record))
        for run, run_dir, record in zip(runs, run_dirs, records, strict=True)
    ]
    threshold = _threshold(records)
    return RunComparison(
        runs=runs,
        settings=differences([run.settings for run in runs], _NOT_COMPARED),
        versions=differences([run.versions for run in runs]),
        metrics=differences([last_metrics(record) | _step(run) for run, record in zip(runs, records, strict=True)]),
        pairs=pair_runs(evaluated, threshold),
        threshold=threshold,
    )


def check_runs(run_dirs: Sequence[Path]) -> None:
    """Raises ConfigError unless there are two runs or more, each given once."""
    if len(run_dirs) < 2:
        raise ConfigError(f"RUN: want two runs or more; got {len(run_dirs)}; give the run.dir of each")
    given: dict[Path, Path] = {}
    for run_dir in map(checked_run, run_dirs):
        whole = run_dir.resolve()
        if whole in given:
            also = "" if given[whole] == run_dir else f", which is {given[whole]}"
            raise ConfigError(f"RUN: a run is given twice; got {run_dir}{also}; give each run once")
        given[whole] = run_dir


def to_json(found: RunComparison) -> dict[str, Any]:
    """Values by the runs' letters in lower case: {"settings": {"run.seed": {"a": 0, "b": 5}}}. A run without a value
    is left out. Numbers that are not finite become null."""
    keys = [mark.lower() for mark in found.marks]

    def by_run(part: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, Any]]:
        return {
            name: {key: _strict(value) for key, value in zip(keys, values, strict=True) if value is not ABSENT}
            for name, values in part.items()
        }

    facts = ("name", "folder", "state", "step", "last_step", "score", "evaluation", "notes")
    return {
        "runs": {key: {fact: getattr(run, fact) for fact in facts} for key, run in zip(keys, found.runs, strict=True)},
        "settings": by_run(found.settings),
        "versions": by_run(found.versions),
        "metrics": by_run(found.metrics),
        "evaluations": [
            {
                "first": pair.first.lower(),
                "other": pair.other.lower(),
                "step": pair.step,
                "how": pair.how,
                "comparisons": pair.comparisons,
            }
            for pair in found.pairs
        ],
    }


def as_text(found: RunComparison) -> str:
    """Lines for a terminal."""
    lines = aligned([(run.mark, run.name, run.state, run.progress, run.folder) for run in found.runs])
    metrics = {name: values for name, values in found.metrics.items() if not name.startswith(_NOT_SHOWN)}
    for title, part in (("settings", found.settings), ("versions", found.versions), ("metrics", metrics)):
        rows = [("", found.marks), *difference_rows(part)]
        lines += ["", title, *(_indented(rows) if part else ["  the same"])]
    return "\n".join([*lines, *evaluation_lines(found), *note_lines(found)])


def evaluation_lines(found: RunComparison) -> list[str]:
    """The paired evaluations, for a terminal: each pair and, below it, its tables."""
    lines = ["", "evaluations"]
    for pair in found.pairs:
        lines.append(visible(f"  {pair.first}, {pair.other}: {pair.how}"))
        for title, comparison in pair.comparisons.items():
            rows = [(_title(title, comparison["metric"]), _columns(pair)), *pair_rows(comparison, found.threshold)]
            lines += [f"  {line}" for line in _indented(rows)]
    method = method_of(found.pairs)
    return [*lines, f"  %, 95 % intervals; differences: {method}"] if method else lines


def note_lines(found: RunComparison) -> list[str]:
    """What is missing or damaged in the runs' folders, for a terminal; nothing if all is there."""
    notes = [visible(f"  {run.mark}: {note}") for run in found.runs for note in run.notes]
    return ["", "notes", *notes] if notes else []


def _run(mark: str, name: str, run_dir: Path, record: RunRecord, facts: Mapping[str, Any]) -> ComparedRun:
    folders = attempts(run_dir)
    return ComparedRun(
        mark=mark,
        name=name,
        folder=facts["folder"],
        state=facts["state"],
        step=facts["step"],
        last_step=facts["last_step"],
        score=facts["score"],
        evaluation=facts["evaluation"],
        metrics=record.metrics,
        evaluations=record.evaluations,
        events=read_events(run_dir),
        settings=settings_of(record),
        versions=versions_of(read_attempt(folders[-1][1])) if folders else {},
        notes=record.notes,
    )


def _step(run: ComparedRun) -> dict[str, int]:
    return {} if run.step is None else {"step": run.step}


def _rewards(record: RunRecord) -> RewardsBySet | None:
    function, by_set = record.setting("reward.function"), record.setting("reward.functions") or {}
    good = isinstance(by_set, dict) and all(isinstance(name, str) for name in by_set.values())
    return RewardsBySet(function, by_set) if good and (by_set or isinstance(function, str)) else None


def _threshold(records: Sequence[RunRecord]) -> float | None:
    """`evaluation.iou_threshold` of the first run whose settings have it."""
    found = (record.setting("evaluation.iou_threshold") for record in records)
    return next((float(value) for value in found if isinstance(value, int | float)), None)


def _title(title: str, metric: str) -> str:
    return f"{'all' if title == ALL_SETS else title} ({metric})"


def _columns(pair: Pair) -> list[str]:
    return [pair.first, pair.other, f"{pair.other} − {pair.first}"]


def _indented(rows: Sequence[Row]) -> list[str]:
    return [f"  {line}" for line in aligned([(label, *cells) for label, cells in rows])]


def _strict(value: Any) -> Any:
    return finite_or_none(value) if isinstance(value, float) else value
