"""Remove what a run directory has of steps that a resumed run makes again."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from mars.answers.files import step_of
from mars.report.run_record import EVALUATION_FOLDER, REPORT_FILE
from mars.tracking.jsonl import METRICS_FILE, read_metrics
from mars.tracking.rollouts import ROLLOUTS_FOLDER

logger = logging.getLogger(__name__)

_SHOWN = 3


def remove_later_steps(run_dir: Path, sampled: int, logged: int) -> None:
    """Remove rollouts of steps after `sampled`, evaluations of steps after `logged`, and a report that may show them.

    Call it before the tracker of metrics.jsonl drops its rows after `logged`. A file that cannot be removed is logged.
    """
    later = [*_later(run_dir / ROLLOUTS_FOLDER, sampled), *_later(run_dir / EVALUATION_FOLDER, logged)]
    if later or _last_row(run_dir) > logged:
        later += [path for path in (run_dir / REPORT_FILE,) if path.exists()]
    removed = []
    for path in later:
        try:
            path.unlink()
        except OSError as error:
            logger.warning("%s: of a step that is trained again, but cannot be removed (%s)", path, error.strerror)
        else:
            removed.append(str(path.relative_to(run_dir)))
    if removed:
        more = f" and {len(removed) - _SHOWN} more" if len(removed) > _SHOWN else ""
        logger.info("removed, because the run goes on after step %d: %s%s", sampled, ", ".join(removed[:_SHOWN]), more)


def _later(folder: Path, step: int) -> Iterator[Path]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        of_file = step_of(path)
        if of_file is not None and of_file > step:
            yield path


def _last_row(run_dir: Path) -> int:
    """The step of the last row of metrics.jsonl, -1 without one."""
    path = run_dir / METRICS_FILE
    rows = read_metrics(path).rows if path.is_file() else ()
    return rows[-1]["step"] if rows else -1
