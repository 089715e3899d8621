"""`mars report`: write the report of a run, once or until the run ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import typer

from mars import interrupts
from mars.data.pixels.images import decode_image
from mars.evaluation.tables import evaluation_table, print_table
from mars.live_report.follow import follow, standing
from mars.report.run_page import write_report
from mars.report.run_record import read_evaluations


def report_run(run_dir: Path) -> None:
    """Write the report, and print the evaluations and its path. Raises DataError if there is nothing to report."""
    path = write_report(run_dir, None, decode_image, standing(run_dir))
    results = read_evaluations(run_dir)
    if results:
        print_table(evaluation_table(results))
    typer.echo(f"report: {path}")


def follow_run(run_dir: Path, every: int, wait: Callable[[float], None] = time.sleep) -> None:
    """Write the report as `follow` until the run ends; then print as `report_run`. Ctrl-C leaves; the run goes on.

    Raises DataError if the run is over and there is nothing to report.
    """
    try:
        follow(run_dir, every, wait, typer.echo)
    except KeyboardInterrupt:
        interrupts.settle()
        return
    report_run(run_dir)
