"""logs/attempt_N/: the record of attempt N of a run. An attempt is the first start of a run, or a resume.

attempt.json     command, overrides, working directory, process, versions, machine, environment, code, users' functions
code.diff        how the code of mars differs from its commit; only if it differs
processes.json   the processes that it has started on its own host, for `mars doctor`
engine-0.log     the log of a worker; each worker has one
engine-0.processes.jsonl
                 the processes that have been this worker, on any host; each worker has such a file
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mars.output.digests import write_durably
from mars.output.files import cannot_write
from mars.run_dir.facts import code_version, machine, relevant_environment, without_keys
from mars.run_dir.process_list import listed_processes
from mars.run_dir.processes import ProcessId, process_from, recorded_workers, this_process
from mars.versions import package_versions

logger = logging.getLogger(__name__)

LOGS_FOLDER = "logs"
ATTEMPT_FILE = "attempt.json"
DIFF_FILE = "code.diff"
_FOLDER_OF_JOBS = "working_dir_files"  # Ray's name
_NAME = re.compile(r"attempt_([1-9]\d*)")


def start_attempt(run_dir: Path, overrides: Sequence[str], functions: Mapping[str, Any], resumes: bool) -> Path:
    """Make the folder of the next attempt with its record, and return it. The run's lock must be held.

    overrides: settings of the command line. functions: users' functions with their sha256, as mars/plugin.py records
    them. resumes: whether the attempt was asked to resume. Raises SetupError.
    """
    number = max((number for number, _ in attempts(run_dir)), default=0) + 1
    folder = run_dir / LOGS_FOLDER / f"attempt_{number}"
    code = code_version()
    record = {
        "attempt": number,
        "command": [without_keys(word) for word in sys.orig_argv],
        "overrides": [without_keys(text) for text in overrides],
        "resume": resumes,
        "working_directory": os.getcwd(),
        "process": asdict(this_process()),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": package_versions(),
        "machine": machine(),
        "environment": relevant_environment(os.environ),
        "code": {
            "commit": code.commit,
            "diff_sha256": hashlib.sha256(code.diff).hexdigest() if code.diff else None,
            "diff_truncated": code.truncated,
            "untracked": list(code.untracked),
        },
        "functions": functions,
    }
    try:
        # Only the user can read the logs: they quote rows, texts and addresses.
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        if code.diff:
            write_durably(folder / DIFF_FILE, [without_keys(code.diff.decode("utf-8", "replace")).encode()])
        write_durably(folder / ATTEMPT_FILE, [(json.dumps(record, indent=1) + "\n").encode()])
    except OSError as error:
        raise cannot_write(folder, error, "run.dir") from error
    return folder


def attempts(run_dir: Path) -> list[tuple[int, Path]]:
    """(number, folder) of the attempts of a run, ascending."""
    logs = run_dir / LOGS_FOLDER
    found = [(match, path) for path in logs.iterdir() if (match := _NAME.fullmatch(path.name))] if logs.is_dir() else []
    return sorted((int(match[1]), path) for match, path in found if path.is_dir())


def read_attempt(folder: Path) -> dict[str, Any]:
    """The content of attempt.json; empty if it cannot be read."""
    try:
        content = json.loads((folder / ATTEMPT_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def enter_working_directory(run_dir: Path) -> Path | None:
    """Change to the folder in which the run's last attempt was started, so that relative paths keep their meaning.

    If this folder is gone, logs a warning and returns it; else returns None. Does not change to the folder of a
    submitted job, because each job has its own copy of the user's folder.
    """
    recorded = [read_attempt(folder).get("working_directory") for _, folder in attempts(run_dir)]
    folder = next((folder for folder in reversed(recorded) if isinstance(folder, str)), None)
    if folder is None or Path(folder) == Path.cwd() or _FOLDER_OF_JOBS in Path(folder).parts:
        return None
    try:
        os.chdir(folder)
    except OSError as error:
        logger.warning("%s: %s; relative paths in the settings now start at %s", folder, error.strerror, Path.cwd())
        return Path(folder)
    logger.info("relative paths in the settings start at %s, where the run was started", folder)
    return None


def recorded_processes(folder: Path) -> Iterator[tuple[ProcessId, str]]:
    """(process, its name) of each process of an attempt, on any host: the driver, then workers, then other
    processes."""
    own = process_from(read_attempt(folder).get("process"))
    if own is not None:
        yield own, "mars"
    workers = list(recorded_workers(folder))
    yield from workers
    for process, name in listed_processes(folder):
        if not any(process.is_same(worker) for worker, _ in workers):
            yield process, name
