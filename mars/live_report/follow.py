"""Rewrites the report of a run each time the run has written something, until the run ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mars.config.folders import CONFIG_FILE
from mars.data.pixels.images import decode_image
from mars.report.run_page import NothingToReport, Standing, write_report
from mars.report.run_record import EVALUATION_FOLDER
from mars.run_dir.events import EVENTS_FILE, read_events
from mars.run_dir.lock import held_by
from mars.run_dir.outcome import planned_step, state_of
from mars.tracking.jsonl import METRICS_FILE
from mars.tracking.rollouts import ROLLOUTS_FOLDER

Signs = dict[str, tuple[int, int]]


def follow(
    run_dir: Path,
    every: int,
    wait: Callable[[float], object],
    say: Callable[[str], object],
    out: Path | None = None,
) -> None:
    """Write the report of a running run, and rewrite it whenever the run's files have changed. Returns when the run has
    ended. The caller then writes the last page, which says how it ended.

    every: seconds between two looks at the run; also the interval at which the page reloads itself.
    wait: waits for a number of seconds; its exceptions end this function.
    say: called with one line for each page, or to say that the run has logged nothing yet. out: the page, by default
        RUN/report.html.
    """
    shown: Signs | None = None
    # The state is read before the files, so that the files of an ended run are complete.
    while (now := standing(run_dir, reload_s=every)) is not None and now.state == "running":
        found = signs(run_dir)
        if found != shown:
            shown = found
            try:
                path = write_report(run_dir, out, decode_image, now)
            except NothingToReport:
                say(f"{run_dir}: the run has logged nothing yet")
            else:
                say(f"report: {path}")
        wait(every)


def standing(run_dir: Path, reload_s: int | None = None) -> Standing | None:
    """How the run stands; None if the folder has no record of a run.

    reload_s: becomes `Standing.reload_s` if the run is running; else that is None.
    """
    events, writer = read_events(run_dir), held_by(run_dir)
    if writer is None and not events:
        return None
    state = state_of(events, writer)
    return Standing(state, planned_step(events), reload_s if state == "running" else None)


def signs(run_dir: Path) -> Signs:
    """(time of the last change, size) of each file that the report shows."""
    files = [run_dir / name for name in (METRICS_FILE, EVENTS_FILE, CONFIG_FILE)]
    for folder in (EVALUATION_FOLDER, ROLLOUTS_FOLDER):
        files += (run_dir / folder).glob("*.json*")
    found: Signs = {}
    for path in files:
        try:
            stat = path.stat()
        except FileNotFoundError:  # not written yet, or removed by a run that has just resumed
            continue
        found[str(path)] = (stat.st_mtime_ns, stat.st_size)
    return found
