"""How a mars process ends: a failure is one paragraph on stderr and an exit code, its traceback in the run's log."""

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
    """Appends to <run_dir>/mars.log, from the moment the folder exists; makes nothing itself."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir / LOG_FILE, encoding="utf-8", delay=True)
        self.setLevel(logging.DEBUG)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if Path(self.baseFilename).parent.is_dir():
            super().emit(record)


def log_to(run_dir: str) -> None:
    """From now on, what mars logs goes to <run_dir>/mars.log too, with the tracebacks of `run_command`."""
    for handler in [handler for handler in _mars.handlers if isinstance(handler, RunLog)]:
        _mars.removeHandler(handler)
        handler.close()
    _mars.addHandler(RunLog(Path(run_dir)))


def run_command(main: Callable[[], int]) -> NoReturn:
    """Run `main` and end the process with the exit code it returns, or with that of its failure.

    A MarsError is its message and its exit code; Ctrl-C is 130; anything else is 1 and says where the traceback is:
    in the run's log, or on stderr where there is no log.
    """
    console = logging.StreamHandler(sys.stderr)
    console.setLevel(logging.INFO)
    console.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    _mars.addHandler(console)
    _mars.setLevel(logging.DEBUG)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without a character still gets the rest
    try:
        code = main()
    except MarsError as error:
        sys.stderr.write(f"{error}\n{_keep_traceback('the traceback is in {}')}")
        code = error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        code = _INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last resort: reported in full, with exit code 1
        what = f"mars stopped on an error that it does not know, {type(error).__name__}: {error}"
        where = _keep_traceback("its traceback is in {}, please report it") or traceback.format_exc()
        sys.stderr.write(f"{what}\n{where}")
        code = 1
    raise SystemExit(code)


def _keep_traceback(where: str) -> str:
    """Log the traceback of the exception in hand; `where` with the log's path, or nothing if there is no log."""
    _mars.debug("the run ends on this exception", exc_info=True)
    logs = [handler.baseFilename for handler in _mars.handlers if isinstance(handler, RunLog)]
    return "".join(f"({where.format(path)})\n" for path in logs if Path(path).is_file())
