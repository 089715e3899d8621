"""Keeps a run's report up to date during the run, in a separate process.

driver ── starts ──> mars/live_report/program.py ── every minute, if RUN has changed ──> RUN/report.html
driver ── closes the pipe, or dies ──> the last page, which says how the run has ended

A page takes about a second of Python. In a thread of the driver it would hold the GIL for that time.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from mars import interrupts
from mars.config.run_sections import REPORT, TrackerConfig
from mars.run_dir.lock import RunLock

logger = logging.getLogger(__name__)

_PROGRAM = "mars.live_report.program"


@contextmanager
def report_kept(run_dir: Path, tracking: TrackerConfig, lock: RunLock) -> Iterator[None]:
    """Keep <run_dir>/report.html up to date during the block, if `tracking.to` names the report.

    At the end the lock of run_dir is released, so that the last page can say how the run has ended. The block then
    waits for that page, at most `tracking.timeout_s`. It does not wait if the run ends early (`interrupts.reason`), nor
    while Ray still shuts down (`interrupts.exit_hooks_hang`), because Ray may end the process with exit code 1
    during the wait, even after a successful run. In both cases the page is written after the run's end. Failures
    are only logged.
    """
    process = ReportProcess.start(run_dir) if REPORT in tracking.to else None
    try:
        yield
    finally:
        if process is not None:
            lock.release()
            ends_now = interrupts.reason() is not None or interrupts.exit_hooks_hang()
            process.close(0.0 if ends_now else tracking.timeout_s)


class ReportProcess:
    """The process that writes the page of one run. errors: the file for its error messages."""

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
        self._process, self._errors = process, errors

    @classmethod
    def start(cls, run_dir: Path) -> ReportProcess | None:
        """Start the process. If this fails, warns and returns None."""
        try:
            errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
            # -P: a user's folder may have files named like Python's modules, or a folder named mars. In a separate
            # session, so that Ctrl-C in the run's terminal does not reach it.
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", _PROGRAM, str(run_dir.absolute())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        except OSError as error:
            logger.warning("report.html is not kept up to date: %s; `mars report` writes it", error)
            return None
        return cls(process, errors)

    def close(self, timeout_s: float) -> None:
        """Let the process write the last page and end, and wait for this at most `timeout_s`. It is never killed."""
        assert self._process.stdin is not None
        with suppress(OSError):  # it has ended
            # Closing is not enough: a forked process may keep the pipe open.
            os.write(self._process.stdin.fileno(), b"\n")
        self._process.stdin.close()
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            if timeout_s:
                logger.warning("report.html: the last page takes more than %g s; the run does not wait", timeout_s)
            return
        if code:
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").splitlines() or [f"exit code {code}"]
            logger.warning("report.html is not up to date: %s; `mars report` writes it", said[-1])
