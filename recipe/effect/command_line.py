"""The commands `python -m recipe.effect.run` and `python -m recipe.effect.report`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from statistics import fmean
from typing import Annotated

import typer

from mars import interrupts
from mars.errors import ConfigError
from mars.output.progress import progress
from mars.output.text import aligned
from mars.run_dir.lock import RunLock
from recipe.effect.decided import check_decided, keep_study
from recipe.effect.plan import StudyRun, estimated_seconds, planned_runs
from recipe.effect.processes import STOP_S
from recipe.effect.record import read_record, settings_by_arm
from recipe.effect.report import write_study_report
from recipe.effect.runs import RunEnd, StudyRunner
from recipe.effect.stages import Stages
from recipe.effect.study import STUDY_FILE, Study, chosen, load_study, parse_seeds

_GRACE_S = 10.0  # to stop, beyond what the runs may take
run_app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
report_app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

Out = Annotated[
    Path, typer.Argument(metavar="OUT", help="Folder of the study: its data, cold starts, runs and report.")
]


@run_app.command()
def run(
    out: Out,
    study_file: Annotated[
        Path, typer.Option("--study", help="File of the study.", show_default="recipe/effect/study.yaml")
    ] = STUDY_FILE,
    arms: Annotated[str, typer.Option(help="Only these arms, separated by commas.")] = "",
    dials: Annotated[str, typer.Option(help="Only these dials, separated by commas.")] = "",
    seeds: Annotated[str, typer.Option(help='Only these of the study\'s seeds, such as "0-3,7".')] = "",
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time; by default as many as cores.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only list the runs that are missing, with the time.")] = False,
) -> None:
    """Run a study on the benchmark, and write its report.

    Example: python -m recipe.effect.run runs/study --arms grpo_10,mars_grpo --dials 0.5 --seeds 0-3

    Each run is a process with one thread. A second call goes on with the runs that are missing. Exits with 1 if a run
    failed, or is refused because it generated other than the study's number of rollouts.
    """
    out, study = _folder(out), load_study(study_file)
    runs = _chosen_runs(study, arms, dials, seeds)
    settings = settings_by_arm(study, list(dict.fromkeys(run.arm for run in runs)))
    runner = StudyRunner(Stages(study, out), settings)
    check_decided(study, out)
    missing = runner.missing(runs)
    before, jobs = runner.stages_before(missing), jobs or usable_cores()
    if plan:
        lines = [(run.name, run.start.name, str(study.rollouts(run.arm))) for run in missing]
        typer.echo("\n".join(aligned([("run", "cold start", "rollouts per prompt"), *lines])))
    seconds = estimated_seconds(study, missing, len(before), jobs, _seconds_by_arm(out, runs))
    counted = f"{len(missing)} of {len(runs)} runs and {len(before)} stages before them"
    typer.echo(f"{counted} are missing: about {_duration(seconds)} with {jobs} at a time")
    if plan:
        return
    with RunLock(out) as lock:
        lock.take()
        runner.check_idle(runs)
        keep_study(study_file, study, out)
        interrupts.set_grace(STOP_S + _GRACE_S)
        interrupts.say_consequence("give the same command again to go on with the study")
        refused = runner.refused(runs)
        with closing(runner.carry_out(missing, jobs)) as ends:
            failed = [*refused, *_reported(progress(ends, "Running", len(missing) + len(before)))]
        for end in refused:
            typer.echo(f"{end.name}: {end.problem}", err=True)
    if any(read_record(out / run.name) for run in runs):
        typer.echo(f"report: {write_study_report(out)}")
    if failed:
        typer.echo(f"{len(failed)} runs or stages failed or are refused", err=True)
        raise typer.Exit(1)


@report_app.command()
def report(
    out: Out,
    again: Annotated[bool, typer.Option("--again", help="Read metrics and answers of all runs anew.")] = False,
) -> None:
    """Write OUT/report.html, report.png, results.csv and differences.csv from the runs that are finished.

    Example: python -m recipe.effect.report runs/study
    """
    typer.echo(f"report: {write_study_report(_folder(out), again=again)}")


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _folder(out: Path) -> Path:
    """The folder of a study as an absolute path; it need not exist. Raises ConfigError if it is a file."""
    path = out.absolute()
    if path.exists() and not path.is_dir():
        raise ConfigError(f"OUT: not a folder; got {out}; give a folder, or the name of a new one")
    return path


def _chosen_runs(study: Study, arms: str, dials: str, seeds: str) -> list[StudyRun]:
    by_name = {f"{dial:g}": dial for dial in study.dials}
    names = chosen(_words(arms), list(study.arms), "--arms")
    at = [by_name[name] for name in chosen([_dial(word) for word in _words(dials)], list(by_name), "--dials")]
    wanted = parse_seeds(seeds, study.max_seed, "--seeds") if seeds else []
    unknown = set(wanted) - {seed for dial in at for seed in study.seeds_of(dial)}
    if unknown:
        raise ConfigError(
            f"--seeds: not in the study; got {min(unknown)}; add it to the study's seeds, or leave it out"
        )
    return planned_runs(study, names, at, wanted)


def _dial(word: str) -> str:
    """A dial (see docs/effect.md) as in folder names: "1.0" becomes "1"."""
    try:
        return f"{float(word):g}"
    except ValueError:
        return word


def _words(text: str) -> list[str]:
    return [word for word in text.replace(" ", "").split(",") if word]


def _seconds_by_arm(out: Path, runs: Sequence[StudyRun]) -> dict[str, float]:
    """Arm -> mean seconds of its runs that have ended and whose time is known."""
    timed: dict[str, list[float]] = {}
    for run in runs:
        record = read_record(out / run.name)
        if record is not None and record.seconds is not None:
            timed.setdefault(run.arm, []).append(record.seconds)
    return {arm: fmean(seconds) for arm, seconds in timed.items()}


def _reported(ends: Iterable[RunEnd]) -> Iterator[RunEnd]:
    """The runs and stages that failed, each printed as soon as it ends."""
    for end in ends:
        if end.problem is not None:
            typer.echo(f"{end.name}: {end.problem}", err=True)
            yield end


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
