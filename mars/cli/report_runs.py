"""`mars report A B ...`: write the page that compares runs, once or until all runs have ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import typer

from mars import interrupts
from mars.cli.compared_runs import check_runs, compared, evaluation_lines, note_lines
from mars.cli.report import refuse_report_of_a_run
from mars.errors import ConfigError
from mars.live_report.follow import Signs, signs, standing
from mars.output.files import check_page
from mars.report.comparison_page import GENERATOR, write_comparison

DEFAULT_OUT = Path("comparison.html")
"""In the current folder, because the page belongs to none of the runs."""

_HEAD_BYTES = 4096  # the first bytes of a page, which say what wrote it


def report_runs(run_dirs: Sequence[Path], out: Path) -> None:
    """Write the page to `out`, and print the evaluations side by side, what is missing or damaged in the runs' folders,
    and the path of the page.

    Raises ConfigError and SetupError as `check_runs`, `_check_comparison` and `write_comparison` do.
    """
    check_runs(run_dirs)
    _check_comparison(out)
    found = compared(run_dirs)
    write_comparison(found, out)
    typer.echo("\n".join([*evaluation_lines(found)[1:], *note_lines(found), f"report: {out}"]))


def follow_runs(run_dirs: Sequence[Path], out: Path, every: int, wait: Callable[[float], object] = time.sleep) -> None:
    """Write the page, and write it anew whenever the files of a run have changed, until no run is running. Then print
    as `report_runs` does. Ctrl-C ends this loop, not the runs.

    every: seconds between two looks at the runs, and between two reloads of the page. Raises as `report_runs` does.
    """
    check_runs(run_dirs)
    _check_comparison(out)
    shown: list[Signs] | None = None
    try:
        # The states are read before the files: once a run has ended, its files are complete.
        while any((now := standing(run_dir)) is not None and now.state == "running" for run_dir in run_dirs):
            seen = [signs(run_dir) for run_dir in run_dirs]
            if seen != shown:
                shown = seen
                write_comparison(compared(run_dirs), out, every)
                typer.echo(f"report: {out}")
            wait(every)
    except KeyboardInterrupt:
        interrupts.settle()
        return
    report_runs(run_dirs, out)


def _check_comparison(out: Path) -> None:
    """Raises ConfigError if `out` does not end with .html or .htm, is report.html in a run's folder, or is a file that
    does not compare runs. Raises SetupError if it cannot be written."""
    refuse_report_of_a_run(out)
    check_page(out, "--out")
    if out.exists() and GENERATOR.encode() not in _head(out):
        raise ConfigError(
            f"--out: there is a file that is no comparison of runs, and would be overwritten; got {out}; give another "
            "--out, or remove the file"
        )


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)
