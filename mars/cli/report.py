"""`mars report`: write the report of a run, once or until the run ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import typer

from mars import interrupts
from mars.cli.run_folders import is_run_dir
from mars.data.pixels.images import decode_image
from mars.errors import ConfigError
from mars.evaluation.tables import evaluation_table, print_table
from mars.live_report.follow import follow, standing
from mars.output.files import check_page
from mars.output.text import visible
from mars.report.run_page import write_report
from mars.report.run_record import REPORT_FILE, read_run


def report_run(run_dir: Path, out: Path | None = None) -> None:
    """Write the report, and print the evaluations, what is missing or damaged in the folder, and the path of the page.

    out: by default RUN/report.html. Raises DataError if there is nothing to report, ConfigError if `run_dir` is not
    a folder or `out` is not the name of a page or is the place of another run's report, and SetupError if `out` cannot
    be written.
    """
    _check_places(run_dir, out)
    path = write_report(run_dir, out, decode_image, standing(run_dir))
    run = read_run(run_dir, max_questions=0)
    if run.evaluations:
        print_table(evaluation_table(run.evaluations))
    for note in run.notes:
        typer.echo(visible(f"note: {note}"))
    typer.echo(f"report: {path}")


def follow_run(run_dir: Path, every: int, out: Path | None = None, wait: Callable[[float], None] = time.sleep) -> None:
    """Write the report again and again, as `follow` does, until the run ends. Then print what `report_run` prints.
    Ctrl-C ends this function, but not the run.

    Raises the errors of `report_run`, but DataError only once the run is over.
    """
    _check_places(run_dir, out)
    try:
        follow(run_dir, every, wait, typer.echo, out)
    except KeyboardInterrupt:
        interrupts.settle()
        return
    report_run(run_dir, out)


def _check_places(run_dir: Path, out: Path | None) -> None:
    """Raises ConfigError for a `run_dir` that exists but is no folder, ConfigError or SetupError for a wrong `out`."""
    if os.path.lexists(run_dir) and not run_dir.is_dir():
        raise ConfigError(f"RUN: want a folder; got {run_dir}; give the run.dir of a run")
    if out is not None:
        if os.path.realpath(out) != os.path.realpath(run_dir / REPORT_FILE):  # Path.resolve fails on a loop of links
            refuse_report_of_a_run(out)
        check_page(out, "--out")


def refuse_report_of_a_run(out: Path) -> None:
    """Raises ConfigError for RUN/report.html: the page of another run, or of several, must not take its place."""
    if out.name == REPORT_FILE and is_run_dir(out.parent):
        raise ConfigError(f"--out: this is the place of the report of one run; got {out}; give another name")
