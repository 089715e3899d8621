"""Folders of runs for tests of what compares runs: settings, metrics, events, and evaluations with their answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mars.answers.files import read_answers, step_file
from mars.evaluation.score import record_of
from mars.evaluation.summary import summarize
from mars.run_dir.events import EVENTS_FILE, EventLog
from tests.unit.evaluation.result_files import line, vqa_text

Views = Mapping[str | None, str]
"""View -> one mark per question: "1" is right, "0" is wrong."""


def write_run(
    run_dir: Path,
    settings: Mapping[str, Any] | None = None,
    *,
    steps: int = 3,
    evaluations: Mapping[int, Views] | None = None,
    name: str | None = None,
    ends: bool = True,
    **metrics: Any,
) -> Path:
    """A run with one row of metrics per step, {step: views} evaluated, and the events of one attempt.

    metrics: further values of each row. ends: whether the last event is "finished".
    """
    run_dir.mkdir(parents=True)
    config: dict[str, Any] = {
        "run": {"name": name or run_dir.name, "dir": str(run_dir), "seed": 0},
        "reward": {"function": "vqa", "functions": {}},
        "evaluation": {"iou_threshold": 0.5},
    }
    for key, value in (settings or {}).items():
        section, setting = key.split(".")
        config.setdefault(section, {})[setting] = value
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    rows = [{"step": step, "critic/score/mean": step / 10, **metrics} for step in steps_of(steps)]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    events = EventLog(run_dir / EVENTS_FILE)
    events.log("started", 0, last_step=steps)
    if ends:
        events.log("finished", steps)
    for step, views in (evaluations or {}).items():
        write_evaluation(run_dir, step, views)
    return run_dir


def steps_of(number: int) -> range:
    return range(1, number + 1)


def write_evaluation(run_dir: Path, step: int, views: Views, data_source: str = "set", **fields: Any) -> None:
    """Add the answers to questions "yes" a, b, c, ... as a run writes them, and the result.

    fields: of each answer, see `line`.
    """
    lines = [
        line(
            chr(97 + number), view, vqa_text("yes" if mark == "1" else "no"), "yes", step=step, data_source=data_source,
            **{"reward": reward(float(mark)), **fields},
        )
        for view, marks in views.items()
        for number, mark in enumerate(marks)
    ]  # fmt: skip
    write_lines(run_dir, step, lines)


def reward(value: float) -> dict[str, Any]:
    return {"score": value, "accuracy": value, "parts": {}, "failed": None}


def write_lines(run_dir: Path, step: int, lines: Sequence[Mapping[str, Any]]) -> None:
    path = step_file(run_dir / "evaluation", step)
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(item) + "\n" for item in lines))
    records = [record_of(answer, "vqa") for answer in read_answers(path).answers]
    result = summarize(records, name=f"step {step}", step=step, model="m", threshold=0.5)
    path.with_suffix(".json").write_text(json.dumps(result))
