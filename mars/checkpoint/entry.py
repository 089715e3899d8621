"""Enter a run directory. Only one process at a time writes to it. If a run is in it, only that run may go on there."""

from __future__ import annotations

import shlex
from pathlib import Path

from mars.checkpoint.catalogue import CHECKPOINTS_FOLDER, Catalogue
from mars.errors import ConfigError
from mars.output.files import check_folder
from mars.process import log_to
from mars.run_dir.lock import RunLock, refuse_busy
from mars.tracking.jsonl import METRICS_FILE


def enter(run_dir: Path, lock: RunLock, resume: bool) -> None:
    """Make and lock the folder, and log to it from now on. May be called again.

    Raises BusyError and SetupError as `RunLock.take`, and ConfigError if the folder has another run and resume is
    false.
    """
    lock.take()
    if not resume:
        _refuse_another_run(run_dir)
    log_to(str(run_dir))


def check_enterable(run_dir: Path, resume: bool) -> None:
    """The checks of `enter` that create and change nothing.

    Raises SetupError, BusyError and ConfigError as `enter` does.
    """
    for folder in (run_dir, run_dir / CHECKPOINTS_FOLDER):
        check_folder(folder, "run.dir")
    refuse_busy(run_dir)
    if not resume:
        _refuse_another_run(run_dir)


def _refuse_another_run(run_dir: Path) -> None:
    metrics, catalogue = run_dir / METRICS_FILE, Catalogue(run_dir / CHECKPOINTS_FOLDER)
    steps, damaged = catalogue.steps(), catalogue.without_manifest()
    has_rows = metrics.is_file() and metrics.stat().st_size > 0
    if not (has_rows or steps or damaged):
        return
    what = f"{metrics} holds the metrics of another run" if has_rows else f"{run_dir} holds another run"
    saved = (
        f"newest checkpoint: step {steps[-1]}" if steps else f"{damaged[-1]} is damaged" if damaged else "no checkpoint"
    )
    raise ConfigError(
        f"run.dir: {what} ({saved}); to go on with that run, use `mars resume {shlex.quote(str(run_dir))}` or "
        "run.resume=true; "
        "for a new run choose another run.dir, or remove the old one"
    )
