"""`mars runs ...`: what run directories say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mars.cli.examples import example
from mars.cli.groups import AsJson, group
from mars.cli.paths import RunDir, RunDirs, path_argument
from mars.cli.run_facts import checked_run, details, summary
from mars.cli.run_folders import run_dirs

runs = group("List, show and compare runs.")

_MAX_SKIPPED = 10  # folders that cannot be read and are named


@runs.command("ls", epilog=example("mars runs ls runs"))
def list_(
    folder: Annotated[Path, path_argument(help="Look for runs in this folder and those in it.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List the runs: state, step, last score and evaluation, age, and the number of notes that `mars runs show` gives
    about missing or damaged files. Folders that cannot be read are left out and named on stderr."""
    from mars.errors import ConfigError
    from mars.output.text import aligned

    if not folder.is_dir():
        raise ConfigError(f"FOLDER: no such folder; got {folder}; give the folder that your runs are in")
    found = _summaries(folder)
    found.sort(key=lambda run: run["age_s"])
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    if not found:
        typer.echo(f"{folder}: no run is in it")
        return
    rows = [("name", "state", "step", "score", "evaluation", "age", "notes", "folder")]
    for run in found:
        progress = f"{_or_dash(run['step'])}/{_or_dash(run['last_step'])}"
        shown = (_number(run["score"]), _number(run["evaluation"]), _age(run["age_s"]), str(len(run["notes"]) or ""))
        rows.append((run["name"], run["state"], progress, *shown, run["folder"]))
    typer.echo("\n".join(aligned(rows)))


@runs.command(epilog=example("mars runs show runs/mars --json"))
def show(
    run_dir: RunDir,
    everything: Annotated[bool, typer.Option("--all", help="Also all settings; --json has them.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a run. State, attempts, events, checkpoints, evaluations and last metrics; with --all also all settings."""
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
        ("settings", [(name, str(value)) for name, value in run["settings"].items() if everything]),
        ("notes", [(note,) for note in run["notes"]]),
    ):
        if table:
            lines += ["", title, *(f"  {line}" for line in aligned(table))]
    typer.echo("\n".join(lines))


@runs.command(epilog=example("mars runs diff runs/mars runs/other"))
def diff(run_dirs: RunDirs, as_json: AsJson = False) -> None:
    """Show how runs differ: in settings, versions and code, last metrics, and evaluations. Evaluations are compared
    with those of the first run, question by question."""
    from mars.cli.compared_runs import as_text, compared, to_json

    found = compared(run_dirs)
    typer.echo(json.dumps(to_json(found), indent=1, default=str) if as_json else as_text(found))


def _summaries(folder: Path) -> list[dict[str, Any]]:
    """`summary` of each run in `folder`, and lines on stderr about the folders that cannot be read. Raises OSError if
    `folder` itself cannot be read."""
    from mars.output.text import visible

    skipped: list[tuple[Path, OSError]] = []
    found = []
    for run_dir in run_dirs(folder, skipped=lambda path, error: skipped.append((path, error))):
        try:
            found.append(summary(run_dir))
        except OSError as error:
            skipped.append((run_dir, error))
    for path, error in skipped:
        if path == folder:
            raise error
    for path, error in skipped[:_MAX_SKIPPED]:
        typer.echo(visible(f"left out: {error.filename or path}: cannot be read ({error.strerror})"), err=True)
    if len(skipped) > _MAX_SKIPPED:
        typer.echo(f"left out: {len(skipped) - _MAX_SKIPPED} more folders that cannot be read", err=True)
    return found


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
