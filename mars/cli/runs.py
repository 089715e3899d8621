"""`mars runs ...`: what run directories say. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mars.cli.examples import example
from mars.cli.paths import RunDir, path_argument
from mars.cli.run_folders import MAX_DEPTH, run_dirs

if TYPE_CHECKING:
    from mars.report.run_record import RunRecord

runs = typer.Typer(help="List, show and compare runs.", no_args_is_help=True, rich_markup_mode=None)

AsJson = Annotated[bool, typer.Option("--json", help="The result as JSON.")]

_SCORE, _EVALUATION = "critic/score/mean", "eval/multi/mean"
_NOT_COMPARED = ("run.dir", "run.resume")


@runs.command("ls", epilog=example("mars runs ls runs"))
def list_(
    folder: Annotated[Path, path_argument(help="Look for runs in this folder and those in it.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List the runs: state, step, last score and evaluation, age."""
    from mars.errors import ConfigError
    from mars.output.text import aligned

    if not folder.is_dir():
        raise ConfigError(f"FOLDER: no such folder; got {folder}; give the folder that your runs are in")
    found = [summary(run_dir) for run_dir in run_dirs(folder)]
    found.sort(key=lambda run: run["age_s"])
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    if not found:
        typer.echo(f"{folder}: no run is in it")
        return
    rows = [("name", "state", "step", "score", "evaluation", "age", "folder")]
    for run in found:
        progress = f"{_or_dash(run['step'])}/{_or_dash(run['last_step'])}"
        shown = (_number(run["score"]), _number(run["evaluation"]), _age(run["age_s"]))
        rows.append((run["name"], run["state"], progress, *shown, run["folder"]))
    typer.echo("\n".join(aligned(rows)))


@runs.command(epilog=example("mars runs show runs/mars --json"))
def show(run_dir: RunDir, as_json: AsJson = False) -> None:
    """Show everything of a run. State, settings, attempts, events, checkpoints, evaluations and last metrics."""
    from mars.output.text import aligned, visible

    run = details(checked_run(run_dir))
    if as_json:
        typer.echo(json.dumps(run, indent=1, default=str))
        return
    lines = [f"{name:<11} {visible(str(run[name]))}" for name in ("name", "folder", "state")]
    lines.append(f"{'step':<11} {_or_dash(run['step'])} of {_or_dash(run['last_step'])}, {_age(run['age_s'])} ago")
    for title, table in (
        ("attempts", [_attempt_row(attempt) for attempt in run["attempts"]]),
        ("events", [_event_row(event) for event in run["events"]]),
        ("checkpoints", [(f"step {c['step']}", c["saved"], c["problem"] or "") for c in run["checkpoints"]]),
        ("evaluations", [(f"step {e['step']}", str(e["name"]), _mean(e)) for e in run["evaluations"]]),
        ("last metrics", [(name, str(value)) for name, value in sorted(run["metrics"].items())]),
        ("settings", [(name, str(value)) for name, value in run["settings"].items()]),
        ("notes", [(note,) for note in run["notes"]]),
    ):
        if table:
            lines += ["", title, *(f"  {line}" for line in aligned(table))]
    typer.echo("\n".join(lines))


@runs.command(epilog=example("mars runs diff runs/mars runs/other"))
def diff(run_a: RunDir, run_b: RunDir, as_json: AsJson = False) -> None:
    """Show in what two runs differ. Settings, versions and code, last metrics."""
    from mars.output.text import aligned

    a, b = details(checked_run(run_a)), details(checked_run(run_b))
    result = {
        "settings": _differences(a["settings"], b["settings"], _NOT_COMPARED),
        "versions": _differences(_versions(a), _versions(b), ()),
        "metrics": _differences({"step": a["step"], **a["metrics"]}, {"step": b["step"], **b["metrics"]}, ()),
    }
    if as_json:
        typer.echo(json.dumps(result, indent=1, default=str))
        return
    lines = [f"A {a['folder']}", f"B {b['folder']}"]
    for title, found in result.items():
        shown = {name: pair for name, pair in found.items() if not name.startswith(("timing_s/", "perf/"))}
        rows = [(name, str(pair["a"]), str(pair["b"])) for name, pair in shown.items()]
        table = [f"  {line}" for line in aligned([("", "A", "B"), *rows])] if rows else ["  the same"]
        lines += ["", title, *table]
    typer.echo("\n".join(lines))


def summary(run_dir: Path) -> dict[str, Any]:
    """The keys name, folder, state, step (of the last metrics), last_step (the planned end), score and evaluation (the
    last of each), and age_s (seconds since metrics or events were last written)."""
    return _summary(run_dir, _read(run_dir))


def details(run_dir: Path) -> dict[str, Any]:
    """`summary` and all else: attempts, events, checkpoints, evaluations, last metrics, settings, notes."""
    from mars.checkpoint.catalogue import CHECKPOINTS_FOLDER, Catalogue
    from mars.cli.ckpt import checkpoint_entries
    from mars.config.overrides import flat
    from mars.run_dir.attempt import attempts, read_attempt
    from mars.run_dir.events import read_events

    record = _read(run_dir)
    settings = flat(record.config, "") if isinstance(record.config, dict) else {}
    return {
        **_summary(run_dir, record),
        "attempts": [{**read_attempt(folder), "folder": str(folder)} for _, folder in attempts(run_dir)],
        "events": read_events(run_dir),
        "checkpoints": checkpoint_entries(Catalogue(run_dir / CHECKPOINTS_FOLDER)),
        "evaluations": list(record.evaluations),
        "metrics": {k: v for k, v in record.metrics[-1].items() if k != "step"} if record.metrics else {},
        "settings": {name.removeprefix("."): value for name, value in settings.items()},
        "notes": list(record.notes),
    }


def _read(run_dir: Path) -> RunRecord:
    from mars.report.run_record import read_run

    return read_run(run_dir, max_questions=0)


def _summary(run_dir: Path, record: RunRecord) -> dict[str, Any]:
    from mars.run_dir.events import EVENTS_FILE, read_events
    from mars.run_dir.lock import held_by
    from mars.run_dir.outcome import planned_step, state_of
    from mars.tracking.jsonl import METRICS_FILE

    events = read_events(run_dir)
    planned = planned_step(events)
    signs = [run_dir / METRICS_FILE, run_dir / EVENTS_FILE]
    newest = max((path.stat().st_mtime for path in signs if path.is_file()), default=time.time())
    return {
        "name": str(record.setting("run.name") or run_dir.name),
        "folder": str(run_dir),
        "state": state_of(events, held_by(run_dir)),
        "step": record.metrics[-1]["step"] if record.metrics else None,
        "last_step": planned if planned is not None else record.setting("run.num_steps"),
        "score": _last(record, _SCORE),
        "evaluation": _last(record, _EVALUATION),
        "age_s": round(max(time.time() - newest, 0)),
    }


def _last(record: RunRecord, metric: str) -> float | None:
    return next((row[metric] for row in reversed(record.metrics) if row.get(metric) is not None), None)


def checked_run(run_dir: Path) -> Path:
    """`run_dir` itself. Raises ConfigError if no run is in it."""
    from mars.errors import ConfigError

    if list(run_dirs(run_dir, depth=MAX_DEPTH)) != [run_dir]:
        raise ConfigError(f"RUN: no run is in {run_dir}; give the run.dir of a run")
    return run_dir


def _versions(run: Mapping[str, Any]) -> dict[str, Any]:
    """Of the last attempt: packages, and the code of mars and of users' functions."""
    last = run["attempts"][-1] if run["attempts"] else {}
    code = {name: value for name, value in (last.get("code") or {}).items() if name != "untracked"}
    functions = {
        f"{setting} {Path(entry['file']).name}:{entry['function']}": entry["sha256"]
        for setting, entries in (last.get("functions") or {}).items()
        for entry in entries
    }
    return {**(last.get("versions") or {}), **{f"code {name}": value for name, value in code.items()}, **functions}


def _differences(a: Mapping[str, Any], b: Mapping[str, Any], ignored: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Name -> {"a": value, "b": value} of each that differs; null where one has none."""
    names = [name for name in {**a, **b} if name not in ignored]
    return {name: {"a": a.get(name), "b": b.get(name)} for name in names if a.get(name) != b.get(name)}


def _attempt_row(attempt: Mapping[str, Any]) -> tuple[str, ...]:
    process, code = attempt.get("process") or {}, attempt.get("code") or {}
    commit = f"{str(code.get('commit'))[:12]}{' + code.diff' if code.get('diff_sha256') else ''}"
    where = f"{process.get('host')}:{process.get('pid')}"
    command = " ".join(map(str, attempt.get("command") or ()))
    return Path(attempt["folder"]).name, str(attempt.get("time")), where, commit, command


def _event_row(event: Mapping[str, Any]) -> tuple[str, ...]:
    told = ", ".join(f"{name} {value}" for name, value in event["details"].items())
    return event["time"], event["event"], f"step {_or_dash(event['step'])}", told


def _mean(evaluation: Mapping[str, Any]) -> str:
    multi = evaluation.get("multi")
    return _number(multi.get("mean") if isinstance(multi, dict) else None)


def _or_dash(value: Any) -> str:
    return "–" if value is None else str(value)


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "–"


def _age(seconds: float) -> str:
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
