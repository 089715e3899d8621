"""Run a command. A failure gives one paragraph on stderr, an exit code, and a traceback in the run's log."""

from __future__ import annotations

import locale
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from mars import interrupts
from mars.errors import InterruptedRun, MarsError
from mars.output.files import refused_path
from mars.output.secrets import redact
from mars.output.terminal import escaped_output
from mars.output.text import visible

LOG_FILE = "mars.log"
_mars = logging.getLogger("mars")


class _SafeFormatter(logging.Formatter):
    """Escapes control and invisible characters, except those in `keep`, and replaces secrets (see `redact`)."""

    def __init__(self, form: str, keep: str) -> None:
        super().__init__(form)
        self._keep = keep

    def format(self, record: logging.LogRecord) -> str:
        return visible(redact(super().format(record)), self._keep)


class RunLog(logging.FileHandler):
    """Appends to <run_dir>/mars.log. Does not create the folder, and drops records as long as it does not exist.

    Only the user can read the file, because exceptions quote rows, texts and addresses.
    """

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir / LOG_FILE, encoding="utf-8", delay=True)
        self.failing = False  # whether a record was dropped
        self.setLevel(logging.DEBUG)
        self.setFormatter(_SafeFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "\n\t"))

    def emit(self, record: logging.LogRecord) -> None:
        path = Path(self.baseFilename)
        if not path.parent.is_dir():
            return
        try:
            if self.stream is None and not path.exists():
                path.touch(mode=0o600)
        except OSError:
            self.handleError(record)
            return
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """On a full or read-only disk, drop the record, and write one warning to the terminal."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.failing:
            self.failing = True
            text = f"{self.baseFilename}: {error.strerror}; the run goes on without this log"
            sys.stderr.write(f"WARNING {visible(text)}\n")


def log_to(run_dir: str) -> None:
    """Also write mars' log, and the traceback of a failure, to <run_dir>/mars.log.

    If an earlier call named another run_dir, the log in that folder gets no more lines.
    """
    for handler in [handler for handler in _mars.handlers if isinstance(handler, RunLog)]:
        _mars.removeHandler(handler)
        handler.close()
    _mars.addHandler(RunLog(Path(run_dir)))


def run_command(main: Callable[[], int]) -> NoReturn:
    """Run `main` and exit with the code that it returns, or with the code of its failure.

    A MarsError prints its message and exits with its exit_code. An OSError of a path that the system refuses
    (`refused_path`) is reported as a SetupError. SIGTERM, SIGHUP and Ctrl-C exit with 75, a second
    Ctrl-C with 130 (mars/interrupts.py). SystemExit exits with its own code. Any
    other exception exits with 1: its traceback goes to the run's log, and the path of the log is printed; without a log
    the traceback goes to stderr. In printed text, control characters are escaped and secrets from environment variables
    are replaced (`redact`).
    """
    _use_utf8()
    with escaped_output(), interrupts.handled(report_end):
        console = logging.StreamHandler(sys.stderr)
        console.setLevel(logging.INFO)
        console.setFormatter(_SafeFormatter("%(levelname)s %(message)s", "\n\t"))
        _mars.addHandler(console)
        _mars.setLevel(logging.DEBUG)
        try:
            interrupts.listen()
            code = main()
        except BaseException as error:  # noqa: BLE001 - every failure is reported
            code = _end_with(error)
        if (interrupts.finish() is not None and code) or interrupts.exit_hooks_hang():
            _exit_now(code)
    raise SystemExit(code)


def _end_with(error: BaseException) -> int | str | None:
    """Report the failure. Returns the exit code.

    If the process is ending early (`interrupts.reason`), this reason is reported instead of `error`, because an
    interruption inside a library may arrive here as any kind of exception.
    """
    known = interrupts.finish() or (error if isinstance(error, MarsError) else refused_path(error))
    if known is not None:
        report_end(known)
        return known.exit_code
    if isinstance(error, SystemExit):
        return error.code
    if isinstance(error, KeyboardInterrupt):
        sys.stderr.write("interrupted\n")
        return 130
    what = f"mars stopped on an unexpected error, {type(error).__name__}: {error}"
    where = _keep_traceback(what, "please report it with the traceback in {}") or traceback.format_exc()
    sys.stderr.write(visible(redact(f"{what}\n{where}"), "\n\t"))
    return 1


def report_end(error: MarsError) -> None:
    """Write the message to stderr and to the run's log, with the traceback of the current exception if there is one."""
    message = visible(redact(str(error)), "\n")
    where = _keep_traceback(str(error), "" if isinstance(error, InterruptedRun) else "the traceback is in {}")
    sys.stderr.write(f"{message}\n{visible(where, chr(10))}")
    sys.stderr.flush()


def _keep_traceback(message: str, where: str) -> str:
    """Log the message, and the traceback of the current exception. Returns `where` with the path of the log.

    Returns "" if the traceback is in no log, also because there is none: a thread that ends the process raises nothing.
    """
    has_traceback = sys.exc_info()[0] is not None
    _mars.debug("the process ends: %s", message, exc_info=has_traceback)
    if not where or not has_traceback:
        return ""
    logs = [handler for handler in _mars.handlers if isinstance(handler, RunLog)]
    paths = [log.baseFilename for log in logs if not log.failing and Path(log.baseFilename).is_file()]
    return "".join(f"({where.format(path)})\n" for path in paths)


def _exit_now(code: int | str | None) -> NoReturn:
    """End without the exit hooks of libraries: the hooks of Ray and wandb wait for processes that no longer exist."""
    sys.stdout.flush()
    sys.stderr.flush()
    logging.shutdown()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _use_utf8() -> None:
    """Run this process and its children in Python's UTF-8 mode, because libraries open files without an encoding.

    The interpreter reads the mode when it starts. So if the locale has another encoding, the process starts again. What
    it prints then has the terminal's encoding.
    """
    os.environ["PYTHONUTF8"] = "1"
    if sys.flags.utf8_mode or locale.getencoding().lower().replace("-", "") == "utf8":
        return
    os.environ.setdefault("PYTHONIOENCODING", f"{sys.stdout.encoding or 'ascii'}:backslashreplace")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
