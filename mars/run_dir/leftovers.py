"""What ended runs have left on this machine: processes, and folders of Ray sessions."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from mars.run_dir.attempt import attempts, read_attempt, recorded_processes
from mars.run_dir.lock import held_by
from mars.run_dir.processes import ProcessId, process_from
from mars.run_dir.ray_folder import OWN_NAME

# Ray names a session's folder by its start time and the process that started it.
_SESSION = re.compile(r"session_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_\d+_(\d+)")


@dataclass(frozen=True)
class LeftProcess:
    """A process on this machine that a run has started and that is still running after the run's end.

    driver_host: host of the run's driver, if it is another machine. Only on that host can one check for certain that
    the driver has ended.
    """

    process: ProcessId
    name: str
    run_dir: Path
    driver_host: str | None = None


def left_processes(run_dirs: Iterable[Path]) -> Iterator[LeftProcess]:
    """The processes that runs in `run_dirs` have left on this machine."""
    for run_dir in run_dirs:
        for _, folder in attempts(run_dir):
            driver = process_from(read_attempt(folder).get("process"))
            if _still_runs(driver, run_dir):
                continue
            driver_host = None if driver is None or driver.is_here() else driver.host
            for process, name in recorded_processes(folder):
                if process.is_here() and process.is_alive():
                    yield LeftProcess(process, name, run_dir, driver_host)


def _still_runs(driver: ProcessId | None, run_dir: Path) -> bool:
    """Whether a run is still running."""
    if driver is not None and driver.is_here():
        return driver.is_alive()
    return held_by(run_dir) is not None


def ended_sessions(ray_folder: Path) -> list[Path]:
    """Folders of this user's Ray sessions that no process uses any more."""
    if not ray_folder.is_dir():
        return []
    found = [path for path in ray_folder.iterdir() if _SESSION.fullmatch(path.name) and path.is_dir()]
    own = [path for path in found if not path.is_symlink() and path.stat().st_uid == os.getuid()]
    if not own:
        return []
    commands = list(_command_lines())
    return sorted(path for path in own if not _is_used(path.name, commands))


def ended_run_folders(parent: Path) -> list[Path]:
    """Folders of Ray's files in `parent` that this user's runs have made (`make_ray_folder`), and that no process uses
    any more.

    A process uses a folder if its command line, its environment or one of its open files names it, or if it has
    started the Ray session in it. Folders are compared by their random names, because a link may give them other paths.
    """
    if not parent.is_dir():
        return []
    of_nodes = f"mars-ray-{os.getuid()}"  # a node of `mars ray` uses it again and again; the number may have 8 digits
    found = [path for path in parent.iterdir() if OWN_NAME.fullmatch(path.name) and path.name != of_nodes]
    own = [path for path in found if path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.getuid()]
    if not own:
        return []
    texts = list(_texts_of_processes())
    return sorted(path for path in own if not any(path.name in text for text in texts) and not _has_driver(path))


def _has_driver(folder: Path) -> bool:
    matches = (_SESSION.fullmatch(path.name) for path in folder.glob("*/session_*"))
    return any(psutil.pid_exists(int(match[1])) for match in matches if match is not None)


def _texts_of_processes() -> Iterator[str]:
    """The command lines, environments and paths of open files of all processes, where this user may read them."""
    for process in psutil.process_iter(["cmdline", "environ", "open_files"]):
        yield " ".join(process.info["cmdline"] or ())
        yield " ".join((process.info["environ"] or {}).values())
        yield " ".join(file.path for file in process.info["open_files"] or ())


def _is_used(session: str, commands: Iterable[str]) -> bool:
    match = _SESSION.fullmatch(session)
    assert match is not None  # the callers' condition
    return psutil.pid_exists(int(match[1])) or any(session in command for command in commands)


def _command_lines() -> Iterator[str]:
    for process in psutil.process_iter(["cmdline"]):
        yield " ".join(process.info["cmdline"] or ())
