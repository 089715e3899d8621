"""One writer per run directory, and nothing that a dead process left behind blocks the next one."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.errors import BusyError, SetupError
from mars.run_dir.lock import LOCK_FILE, RunLock, held_by
from mars.run_dir.processes import ProcessId, process_from, this_process

HOLD = """
import sys
from pathlib import Path
from mars.run_dir.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
lock.take()
if len(sys.argv) > 2:
    import os
    if os.fork() == 0:  # a child that is not executed
        os.write(1, b"child")
        os.read(0, 1)
        os._exit(0)
print("taken", flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(run_dir: Path, *arguments: str):
    """Another process that holds the lock until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run_dir), *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert "taken" in process.stdout.readline()
        yield process
    finally:
        process.stdin.close()
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def no_locks(monkeypatch):
    """A file system without flock."""

    def refuse(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_a_second_run_is_refused_with_host_pid_and_start(tmp_path):
    with holder(tmp_path) as other:
        content = json.loads((tmp_path / LOCK_FILE).read_text())
        with pytest.raises(BusyError) as refusal, RunLock(tmp_path) as lock:
            lock.take()
        assert refusal.value.exit_code == 73
        assert f"process {other.pid} on {content['host']}, which started at 2" in str(refusal.value)
        assert held_by(tmp_path) == ProcessId(content["host"], other.pid, content["started"])
        assert json.loads((tmp_path / LOCK_FILE).read_text()) == content  # the refused run has written nothing


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path):
    with holder(tmp_path) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert held_by(tmp_path) is None
        with RunLock(tmp_path) as lock:
            lock.take()
            assert held_by(tmp_path) == this_process()
    assert held_by(tmp_path) is None


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    with holder(tmp_path, "fork") as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        with RunLock(tmp_path) as lock:  # the child still runs
            lock.take()


def test_the_lock_can_be_taken_twice_and_makes_the_folder(tmp_path):
    with RunLock(tmp_path / "a" / "run") as lock:
        lock.take()
        lock.take()
        assert held_by(tmp_path / "a" / "run") == this_process()
        with pytest.raises(BusyError, match=str(os.getpid())):
            RunLock(tmp_path / "a" / "run").take()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=r"^run\.dir: .*/file/run/LOCK"):
        RunLock(tmp_path / "file" / "run").take()


def test_without_locks_the_named_process_decides(tmp_path, no_locks, caplog):
    own = this_process()
    alive = {"host": own.host, "pid": os.getppid(), "started": process_start(os.getppid())}
    (tmp_path / LOCK_FILE).write_text(json.dumps(alive))
    with pytest.raises(BusyError, match=f"process {os.getppid()} on"):
        RunLock(tmp_path).take()
    assert "no locks" in caplog.text
    for gone in (alive | {"started": alive["started"] - 60}, {}, []):  # the pid was given out again; no content
        (tmp_path / LOCK_FILE).write_text(json.dumps(gone))
        with RunLock(tmp_path) as lock:
            lock.take()
            assert held_by(tmp_path) == own
        assert held_by(tmp_path) is None
    (tmp_path / LOCK_FILE).write_text(json.dumps(alive | {"host": "elsewhere"}))
    with pytest.raises(BusyError, match=r"on elsewhere.*if that process is gone, remove .*LOCK"):
        RunLock(tmp_path).take()


def process_start(pid: int) -> float:
    import psutil

    return psutil.Process(pid).create_time()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["host", "pid", "started", "x"]), inner),
)


@given(JSON)
def test_whatever_a_lock_holds_is_a_process_or_nothing(content):
    process = process_from(content)
    assert process is None or (process.pid > 0 and process.is_alive() in (True, False))
