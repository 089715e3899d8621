"""What a run's folder holds, read leniently: what is damaged is named in the notes and left out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mars.evaluation.tables import by_scorer, evaluation_rows
from mars.tracking.jsonl import METRICS_FILE, read_metrics
from mars.tracking.rollouts import ROLLOUTS_FOLDER
from mars.types import ImageRef

EVALUATION_FOLDER = "evaluation"
CONFIG_FILE = "config.yaml"


@dataclass(frozen=True)
class RunRecord:
    """metrics: rows of metrics.jsonl by step. evaluations: results by step. prompts: those of the last sampled step,
    as `_checked_prompt` makes them. config: parsed config.yaml, and its text. notes: what is missing or damaged."""

    metrics: Sequence[Mapping[str, Any]]
    evaluations: Sequence[Mapping[str, Any]]
    prompts: Sequence[Mapping[str, Any]]
    config: Any
    config_text: str | None
    notes: Sequence[str]

    def setting(self, key: str) -> Any:
        """The value of a dotted key of config.yaml, or None."""
        value = self.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value


def read_run(run_dir: Path, max_prompts: int) -> RunRecord:
    """Everything a report shows of the run in `run_dir`; at most `max_prompts` sampled prompts."""
    notes: list[str] = []
    metrics = _read_rows(run_dir / METRICS_FILE, notes)
    evaluations = _read_evaluations(run_dir / EVALUATION_FOLDER, notes)
    prompts = _read_rollouts(run_dir / ROLLOUTS_FOLDER, max_prompts, notes)
    config, text = _read_config(run_dir / CONFIG_FILE, notes)
    return RunRecord(metrics, evaluations, prompts, config, text, notes)


def _read_rows(path: Path, notes: list[str]) -> Sequence[dict[str, Any]]:
    if not path.is_file():
        notes.append(f"no {METRICS_FILE}: no curves")
        return ()
    read = read_metrics(path)
    if read.damaged:
        notes.append(f"{METRICS_FILE}: {read.damaged} damaged lines are left out")
    return read.rows


def read_evaluations(run_dir: Path) -> list[dict[str, Any]]:
    """The evaluation results of a run, first to last; files that are none are left out."""
    return _read_evaluations(Path(run_dir) / EVALUATION_FOLDER, [])


def _read_evaluations(folder: Path, notes: list[str]) -> list[dict[str, Any]]:
    results = []
    for path in sorted(folder.glob("*.json")):
        try:
            result = json.loads(path.read_bytes())
            evaluation_rows([*by_scorer(result), *result["by_data_source"].values()])
            results.append({**result, "step": int(result["step"]), "name": str(result["name"])})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            notes.append(f"evaluation/{path.name}: left out, no evaluation result ({type(error).__name__}: {error})")
    return sorted(results, key=lambda result: (result["step"], result["name"] != "before", result["name"]))


def _read_rollouts(folder: Path, max_prompts: int, notes: list[str]) -> list[dict[str, Any]]:
    """Prompts of the last sampled step."""
    files = [path for path in folder.glob("step_*.jsonl") if re.fullmatch(r"step_\d+\.jsonl", path.name)]
    if not files:
        return []
    path = max(files, key=lambda path: int(path.stem.removeprefix("step_")))
    prompts = []
    for number, line in enumerate(path.read_bytes().splitlines()[:max_prompts], start=1):
        try:
            prompts.append(_checked_prompt(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            notes.append(f"{ROLLOUTS_FOLDER}/{path.name}:{number}: left out ({type(error).__name__}: {error})")
    return prompts


def _checked_prompt(record: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a rollout record that the page shows; raises where it is none (see rollouts.py)."""
    return {
        "step": int(record["step"]),
        "prompt_id": str(record["prompt_id"]),
        "row": str(record["row"]),
        "data_source": str(record["data_source"]),
        "question": [(str(message["role"]), str(message["text"])) for message in record["question"]],
        "sources": [
            (str(source["name"]), ImageRef(**{**source["image"], "size": tuple(map(int, source["image"]["size"]))}))
            for source in record["sources"]
        ],
        "truth": str(record["truth"]),
        "truth_size": _size(record["truth_size"]),
        "views": [
            {
                "sources": None if view["view"] is None else [str(name) for name in view["view"]],
                "response_size": _size(view["response_size"]),
                "responses": [_checked_response(response) for response in view["responses"]],
            }
            for view in record["views"]
        ],
    }


def _checked_response(response: Mapping[str, Any]) -> dict[str, Any]:
    parts = {str(name): _number(value) for name, value in response["parts"].items()}
    return {
        "text": str(response["text"]),
        "score": _number(response["score"]),
        "parts": ", ".join(f"{name} {value}" for name, value in parts.items()),
        "failed": response["failed"],
        "length": int(response["length"]),
        "finish_reason": str(response["finish_reason"]),
    }


def _size(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    width, height = map(int, value)
    return width, height


def _number(value: Any) -> str:
    return "–" if value is None else f"{float(value):.3g}"


def _read_config(path: Path, notes: list[str]) -> tuple[Any, str | None]:
    if not path.is_file():
        return None, None
    import yaml

    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        return yaml.safe_load(text), text
    except (yaml.YAMLError, RecursionError) as error:
        notes.append(f"config.yaml: cannot be read ({type(error).__name__})")
        return None, text
