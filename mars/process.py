"""Run a command: report a failure as one paragraph on stderr and an exit code, with the traceback in the run's log."""

from __future__ import annotations

import io
import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from mars.errors import MarsError

LOG_FILE = "mars.log"
_INTERRUPTED = 130
_mars = logging.getLogger("mars")


class RunLog(logging.FileHandler):
    """Appends to <run_dir>/mars.log once the folder exists; does not create it, and drops records before."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir / LOG_FILE, encoding="utf-8", delay=True)
        self.setLevel(logging.DEBUG)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if Path(self.baseFilename).parent.is_dir():
            super().emit(record)


def log_to(run_dir: str) -> None:
    """Also write mars' log, and the traceback of a failure, to <run_dir>/mars.log. Replaces an earlier run_dir."""
    for handler in [handler for handler in _mars.handlers if isinstance(handler, RunLog)]:
        _mars.removeHandler(handler)
        handler.close()
    _mars.addHandler(RunLog(Path(run_dir)))


def run_command(main: Callable[[], int]) -> NoReturn:
    """Run `main` and exit with the code that it returns, or with the code of its failure.

    A MarsError prints its message and exits with its exit_code. Ctrl-C exits with 130. Any other exception exits with 1
    and prints where its traceback is: in the run's log, or on stderr if there is no log.
    """
    console = logging.StreamHandler(sys.stderr)
    console.setLevel(logging.INFO)
    console.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    _mars.addHandler(console)
    _mars.setLevel(logging.DEBUG)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # print characters the terminal cannot encode as escapes
    try:
        code = main()
    except MarsError as error:
        sys.stderr.write(f"{error}\n{_keep_traceback('the traceback is in {}')}")
        code = error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        code = _INTERRUPTED
    except Exception as error:  # noqa: BLE001 - a bug: report it in full and exit with 1
        what = f"mars stopped on an unexpected error, {type(error).__name__}: {error}"
        where = _keep_traceback("please report it with the traceback in {}") or traceback.format_exc()
        sys.stderr.write(f"{what}\n{where}")
        code = 1
    raise SystemExit(code)


def _keep_traceback(where: str) -> str:
    """Log the traceback of the current exception. Returns `where` with the log's path filled in, "" without a log."""
    _mars.debug("the run ends with this exception", exc_info=True)
    logs = [handler.baseFilename for handler in _mars.handlers if isinstance(handler, RunLog)]
    return "".join(f"({where.format(path)})\n" for path in logs if Path(path).is_file())
