"""The content of a run's folder for its report. Damaged parts are left out and named in the notes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mars.answers.files import read_answers
from mars.answers.record import Answer, by_question
from mars.config.folders import CONFIG_FILE
from mars.errors import DataError
from mars.evaluation.tables import by_scorer, evaluation_rows
from mars.output.files import read_regular
from mars.report.choice import evenly
from mars.run_dir.events import read_event_file
from mars.tracking.jsonl import METRICS_FILE, read_metrics
from mars.tracking.rollouts import ROLLOUTS_FOLDER

EVALUATION_FOLDER = "evaluation"
REPORT_FILE = "report.html"


@dataclass(frozen=True)
class RunRecord:
    """What a report reads of a run.

    metrics: rows of metrics.jsonl, in the order of steps.
    evaluations: results, in the order of steps.
    questions: sampled rollouts of the last step that has any, one list for each question.
    num_questions: the number of questions of that step; `questions` may have only some of them.
    config: config.yaml, parsed. config_text: its text.
    notes: what is missing or damaged.
    """

    metrics: Sequence[Mapping[str, Any]]
    evaluations: Sequence[Mapping[str, Any]]
    questions: Sequence[Sequence[Answer]]
    num_questions: int
    config: Any
    config_text: str | None
    notes: Sequence[str]

    def setting(self, key: str) -> Any:
        """The value of a dotted key of config.yaml, or None."""
        value = self.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value


def read_run(run_dir: Path, max_questions: int) -> RunRecord:
    """Everything a report shows of the run in `run_dir`, with the rollouts of at most `max_questions` questions, evenly
    spread over those of the last step that has a file of rollouts."""
    notes: list[str] = []
    metrics = _read_rows(run_dir / METRICS_FILE, notes)
    evaluations = _read_evaluations(run_dir / EVALUATION_FOLDER, notes)
    questions = _read_rollouts(run_dir / ROLLOUTS_FOLDER, notes)
    config, text = read_config(run_dir / CONFIG_FILE, notes)
    notes += read_event_file(run_dir).notes()
    some = evenly(questions, max_questions)
    return RunRecord(metrics, evaluations, some, len(questions), config, text, notes)


def _read_rows(path: Path, notes: list[str]) -> Sequence[dict[str, Any]]:
    if not path.is_file():
        notes.append(f"no {METRICS_FILE}: no curves")
        return ()
    read = read_metrics(path)
    if read.damaged:
        notes.append(f"{METRICS_FILE}: damaged lines that are left out: {read.damaged}")
    return read.rows


def _read_evaluations(folder: Path, notes: list[str]) -> list[dict[str, Any]]:
    """The evaluation results of a run in the order of steps. Files that are no results are left out, with a note."""
    results = []
    for path in sorted(folder.glob("*.json")):
        try:
            result = json.loads(read_regular(path))
            evaluation_rows([*by_scorer(result), *result["by_data_source"].values()])
            results.append({**result, "step": int(result["step"]), "name": str(result["name"])})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            notes.append(f"evaluation/{path.name}: left out, no evaluation result ({type(error).__name__}: {error})")
    return sorted(results, key=lambda result: (result["step"], result["name"] != "before", result["name"]))


def _read_rollouts(folder: Path, notes: list[str]) -> list[list[Answer]]:
    """The answers to each question of the last sampled step."""
    path = newest_rollouts(folder)
    if path is None:
        return []
    try:
        file = read_answers(path)
    except DataError as error:
        notes.append(str(error))
        return []
    notes += file.notes
    return by_question(file.answers)


def newest_rollouts(folder: Path) -> Path | None:
    """The file with the rollouts of the last sampled step, None if there is none."""
    files = [path for path in folder.glob("step_*.jsonl") if re.fullmatch(r"step_\d+\.jsonl", path.name)]
    return max(files, key=lambda path: int(path.stem.removeprefix("step_")), default=None)


def read_config(path: Path, notes: list[str]) -> tuple[Any, str | None]:
    """A config.yaml, parsed, and its text; both are None if the file is missing.

    A damaged file gives None and its text, and a note is added to `notes`.
    """
    if not path.is_file():
        return None, None
    import yaml

    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        return yaml.safe_load(text), text
    except (yaml.YAMLError, RecursionError) as error:
        notes.append(f"config.yaml: cannot be read ({type(error).__name__})")
        return None, text
