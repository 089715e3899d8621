"""What the folder of a run says about it, for `mars runs` and `mars report`."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mars.cli.run_folders import is_run_dir

if TYPE_CHECKING:
    from mars.report.run_record import RunRecord

_SCORE, _EVALUATION = "critic/score/mean", "eval/multi/mean"


def summary(run_dir: Path) -> dict[str, Any]:
    """The keys name, folder, state, step (that of the last metrics), last_step (the planned end), score and evaluation
    (the last value of each), age_s (seconds since metrics or events were last written), and notes (what is missing or
    damaged)."""
    return summary_of(run_dir, read_whole(run_dir))


def details(run_dir: Path) -> dict[str, Any]:
    """`summary`, attempts, events, checkpoints, evaluations, last metrics and settings."""
    from mars.checkpoint.catalogue import CHECKPOINTS_FOLDER, Catalogue
    from mars.cli.ckpt import checkpoint_entries
    from mars.run_dir.attempt import attempts, read_attempt
    from mars.run_dir.events import read_events

    record = read_whole(run_dir)
    return {
        **summary_of(run_dir, record),
        "attempts": [{**read_attempt(folder), "folder": str(folder)} for _, folder in attempts(run_dir)],
        "events": read_events(run_dir),
        "checkpoints": checkpoint_entries(Catalogue(run_dir / CHECKPOINTS_FOLDER)),
        "evaluations": list(record.evaluations),
        "metrics": last_metrics(record),
        "settings": settings_of(record),
    }


def settings_of(record: RunRecord) -> dict[str, Any]:
    """Dotted key -> value, as in config.yaml. Empty if that is missing or damaged."""
    from mars.config.browse import recorded

    return recorded(record.config) if isinstance(record.config, dict) else {}


def last_metrics(record: RunRecord) -> dict[str, Any]:
    """The last row of metrics.jsonl without its step."""
    return {name: value for name, value in record.metrics[-1].items() if name != "step"} if record.metrics else {}


def versions_of(attempt: Mapping[str, Any]) -> dict[str, Any]:
    """From the record of an attempt: packages, and the code of mars and of users' functions. Without what is null."""
    code = {name: value for name, value in (attempt.get("code") or {}).items() if name != "untracked"}
    functions = {
        f"{setting} {Path(entry['file']).name}:{entry['function']}": entry["sha256"]
        for setting, entries in (attempt.get("functions") or {}).items()
        for entry in entries
    }
    found = {**(attempt.get("versions") or {}), **{f"code {name}": value for name, value in code.items()}, **functions}
    return {name: value for name, value in found.items() if value is not None}


def read_whole(run_dir: Path) -> RunRecord:
    from mars.report.run_record import read_run

    return read_run(run_dir, max_questions=0)


def summary_of(run_dir: Path, record: RunRecord) -> dict[str, Any]:
    from mars.run_dir.events import EVENTS_FILE, read_events
    from mars.run_dir.lock import held_by
    from mars.run_dir.outcome import planned_step, state_of
    from mars.tracking.jsonl import METRICS_FILE

    events = read_events(run_dir)
    planned = planned_step(events)
    signs = [run_dir / METRICS_FILE, run_dir / EVENTS_FILE]
    newest = max((path.stat().st_mtime for path in signs if path.is_file()), default=time.time())
    return {
        "name": str(record.setting("run.name") or run_dir.resolve().name),
        "folder": str(run_dir),
        "state": state_of(events, held_by(run_dir)),
        "step": record.metrics[-1]["step"] if record.metrics else None,
        "last_step": planned if planned is not None else record.setting("run.num_steps"),
        "score": _last(record, _SCORE),
        "evaluation": _last(record, _EVALUATION),
        "age_s": round(max(time.time() - newest, 0)),
        "notes": list(record.notes),
    }


def _last(record: RunRecord, metric: str) -> float | None:
    """The last value that is a number. null, NaN and whole numbers above the largest float do not count."""
    values = (row.get(metric) for row in reversed(record.metrics))
    largest = sys.float_info.max
    return next((value for value in values if isinstance(value, int | float) and -largest <= value <= largest), None)


def checked_run(run_dir: Path) -> Path:
    """`run_dir` itself. Raises ConfigError if it is not the directory of one run, OSError if it cannot be read."""
    from mars.errors import ConfigError

    if not is_run_dir(run_dir):
        raise ConfigError(f"RUN: no run is in {run_dir}; give the run.dir of a run")
    return run_dir
