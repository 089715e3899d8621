"""Removes a Ray cluster that a run has started, when the run's process ends in any way.

`Guard` starts this file as a program. The program waits until its stdin closes; the kernel closes it when the run's
process ends. Then the program kills what the cluster still runs, keeps the end of Ray's logs, and removes the cluster's
folder. It imports only the standard library, so that it starts at once and needs little memory.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

MARK = "MARS_CLUSTER"
"""Environment variable of every process of the cluster; its value is the cluster's folder."""

_SWEEP_S = 10.0
_CLOSE_TIMEOUT_S = 15.0
_LOG_BYTES = 2**18
_KEPT_LOGS = ("gcs_server*", "raylet*", "worker-*", "python-core-*", "monitor*", "runtime_env*", "dashboard_agent*")


class Guard:
    """The guard of a cluster whose processes have `MARK` in their environment and keep their files in `folder`.

    log_dir: where the end of Ray's logs goes; None keeps none. session: of the cluster's processes, in the sense of
    setsid; None: that of this process.
    """

    def __init__(self, folder: Path, log_dir: Path | None, session: int | None = None) -> None:
        self._cluster = folder, os.getpid(), os.getsid(0) if session is None else session, log_dir
        # In a separate session, so that signals to the run's process group do not reach the guard.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-X", "utf8", __file__, *_to_text(*self._cluster)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={},
            start_new_session=True,
        )

    def close(self) -> None:
        """Remove what is left of the cluster, and wait until it is gone."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(_CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if code:  # somebody has killed the guard
            clean_up(*self._cluster)


def clean_up(folder: Path, driver: int, session: int, log_dir: Path | None) -> None:
    """Kill the processes of the cluster, keep its logs, and remove its folder.

    driver: the process of the run, which is not killed. session: of the cluster's processes (setsid).
    """
    end = time.monotonic() + _SWEEP_S
    while (left := list(members(folder, driver, session))) and time.monotonic() < end:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    if log_dir is not None:
        with suppress(OSError):  # a full disk must not prevent the folder's removal
            keep_logs(folder, log_dir)
    shutil.rmtree(folder, ignore_errors=True)


def members(folder: Path, driver: int, session: int) -> Iterator[int]:
    """Processes of the cluster: those with its mark, and those of `session` (as of setsid) that write to its files.

    The mark is an environment variable. A process that renames itself, as Ray's do, may overwrite its environment; it
    is found by the files. While the mark was in the driver's environment, the driver may also have started processes
    that are not Ray's, such as wandb's. They have the mark too, but they and their children are not yielded.
    """
    parents = {pid: parent for pid in _all_pids() if (parent := _parent(pid)) is not None}
    for pid in parents.keys() - {driver, os.getpid()}:
        with suppress(OSError):  # it ended, or belongs to somebody else
            if _has_mark(pid, folder):
                belongs = _belongs_to_ray(pid, parents, driver, folder)
            else:
                belongs = os.getsid(pid) == session and _writes_to(pid, folder)
            if belongs:
                yield pid


def _has_mark(pid: int, folder: Path) -> bool:
    return f"{MARK}={folder}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]


def _parent(pid: int) -> int | None:
    """The parent of a process. None if the process has ended or is a zombie."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None
    return None if state == "Z" else int(parent)


def _belongs_to_ray(pid: int, parents: Mapping[int, int], driver: int, folder: Path) -> bool:
    """Whether a process with the mark was started by Ray, not by the run itself.

    A child of the driver is Ray's if its arguments name the folder, and then its descendants are Ray's too. A process
    that does not descend from the driver is always Ray's.
    """
    top = pid
    while parents.get(top, 0) not in (0, 1, driver):
        top = parents[top]
    return parents.get(top) != driver or str(folder).encode() in Path(f"/proc/{top}/cmdline").read_bytes()


def _writes_to(pid: int, folder: Path) -> bool:
    """Whether the process has a file in `folder` open for writing."""
    process = Path(f"/proc/{pid}")
    for descriptor in (process / "fd").iterdir():
        with suppress(OSError):
            if not os.readlink(descriptor).startswith(f"{folder}/"):
                continue
            flags = (process / "fdinfo" / descriptor.name).read_text().partition("flags:")[2].split()[0]
            if int(flags, 8) & (os.O_WRONLY | os.O_RDWR):
                return True
    return False


def keep_logs(folder: Path, log_dir: Path) -> None:
    """Copy to log_dir/ray the last 256 KiB of each log that `_KEPT_LOGS` names, unless it is empty."""
    for session in folder.glob("*/session_*"):
        if session.is_symlink():
            continue
        for pattern in _KEPT_LOGS:
            for source in sorted((session / "logs").glob(pattern)):
                if not source.is_file() or not source.stat().st_size:
                    continue
                (log_dir / "ray").mkdir(mode=0o700, parents=True, exist_ok=True)
                with source.open("rb") as log:
                    log.seek(max(source.stat().st_size - _LOG_BYTES, 0))
                    (log_dir / "ray" / source.name).write_bytes(log.read())


def _to_text(folder: Path, driver: int, session: int, log_dir: Path | None) -> list[str]:
    return [str(folder), str(driver), str(session), "" if log_dir is None else str(log_dir.absolute())]


def main(folder: str, driver: str, session: str, log_dir: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.read(0, 1)  # returns when the other end closes; nobody writes
    clean_up(Path(folder), int(driver), int(session), Path(log_dir) if log_dir else None)


if __name__ == "__main__":
    main(*sys.argv[1:])
