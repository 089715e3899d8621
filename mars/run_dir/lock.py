"""One writer per run directory: the process that writes there holds a lock on the file <run.dir>/LOCK.

The kernel keeps the lock (flock) and frees it when the process ends in any way. The content of the file only names the
process. On a file system without locks the content decides: the directory is locked while the process that it names is
running. If that process is on another host, the directory stays locked until the process empties the file, or somebody
removes it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Self

from mars.errors import BusyError
from mars.output.files import cannot_write
from mars.run_dir.processes import ProcessId, process_from, this_process

logger = logging.getLogger(__name__)

LOCK_FILE = "LOCK"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
# `held_by` of another process may hold the lock for a moment.
_TRIES, _PAUSE_S = 3, 0.02


class RunLock:
    """The lock of one run directory, released at the end of a `with` block.

    `take` does nothing if this object has the lock, and `release` does nothing if it has not.

    with RunLock(run_dir) as lock:
        lock.take()
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._file: int | None = None
        self._by_content = False  # the file system has no locks

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def take(self) -> None:
        """Make the folder, and lock it until `release` or the end of the process.

        Raises BusyError if another process has the lock, SetupError if the folder cannot be written.
        """
        if self._file is not None:
            return
        path = self._run_dir / LOCK_FILE
        try:
            self._run_dir.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise cannot_write(path, error, "run.dir") from error
        try:
            self._by_content = not _lock(file, path)
            if self._by_content:
                _check_content(path)
            content = json.dumps(asdict(this_process())).encode() + b"\n"
            os.ftruncate(file, 0)
            os.pwrite(file, content, 0)
        except OSError as error:
            os.close(file)
            raise cannot_write(path, error, "run.dir") from error
        except BaseException:
            os.close(file)
            raise
        self._file = file
        # A forked child would keep the lock after this process has ended.
        os.register_at_fork(after_in_child=self._drop)

    def release(self) -> None:
        if self._file is None:
            return
        if self._by_content:  # nothing else says that this process no longer writes
            os.ftruncate(self._file, 0)
        self._drop()

    def _drop(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def held_by(run_dir: Path) -> ProcessId | None:
    """The process that is writing to a run directory; None if there is none. May hold a shared lock for a moment, and
    writes nothing."""
    path = run_dir / LOCK_FILE
    holder = _holder(path)
    if holder is None or (holder.is_here() and not holder.is_alive()):
        return None
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return holder  # locked; or there are no locks, and the content counts
    finally:
        os.close(file)
    return None


def refuse_busy(run_dir: Path) -> None:
    """Raises BusyError if another process is writing to a run directory. Writes nothing."""
    holder = held_by(run_dir)
    if holder is not None and not holder.is_same(this_process()):
        raise _busy(run_dir / LOCK_FILE, holder)


def _lock(file: int, path: Path) -> bool:
    """Lock the file. Returns False if the file system has no locks. Raises BusyError."""
    for tries_left in reversed(range(_TRIES)):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if not tries_left:
                raise _busy(path, _holder(path)) from None
            time.sleep(_PAUSE_S)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            logger.warning(
                "%s: the file system has no locks (%s); a second run in this folder is noticed on this machine only, "
                "by the process that is named in the file",
                path,
                error.strerror,
            )
            return False
    raise AssertionError("the last try returns or raises")


def _check_content(path: Path) -> None:
    holder = _holder(path)
    if holder is None or holder == this_process():
        return
    if not holder.is_here():
        raise _busy(path, holder, f"; if that process is gone, remove {path}")
    if holder.is_alive():
        raise _busy(path, holder)


def _holder(path: Path) -> ProcessId | None:
    try:
        return process_from(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError):
        return None


def _busy(path: Path, holder: ProcessId | None, otherwise: str = "") -> BusyError:
    if holder is None:
        who = "another process"
    else:
        started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.started))
        who = f"process {holder.pid} on {holder.host}, which started at {started},"
    return BusyError(
        f"run.dir: {who} is writing to {path.parent}; wait until it ends, end it, or choose another run.dir{otherwise}"
    )
