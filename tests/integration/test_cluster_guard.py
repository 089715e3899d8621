"""The guard ends what belongs to its cluster, and nothing else, when the process that started it ends in any way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from mars.cluster.guard import MARK, Guard, members

SLEEP = "import time; time.sleep(300)"
WRITE_A_LOG = "import sys, time; log = open(sys.argv[1], 'w'); log.write('x'); log.flush(); print(flush=True); time.sleep(300)"  # fmt: skip # noqa: E501
READ_A_LOG = "import sys, time; log = open(sys.argv[1]); print(flush=True); time.sleep(300)"


def python(code: str, *arguments: object, **environment: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-S", "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE)


def test_what_belongs_to_the_cluster_ends_and_a_reader_of_its_logs_does_not(tmp_path: Path):
    folder, kept = tmp_path / "cluster", tmp_path / "kept"
    logs = folder / "ray" / "session_1" / "logs"
    logs.mkdir(parents=True)
    (logs / "raylet.out").write_bytes(b"first" + b"x" * 2**18)
    guard = Guard(folder, kept)
    # Arguments of Ray's processes name the folder; a process of wandb has the mark alone.
    marked = python(SLEEP, folder, **{MARK: str(folder)})
    wandb = python(SLEEP, **{MARK: str(folder)})
    other = python(SLEEP, **{MARK: f"{folder}2"})
    writer = python(WRITE_A_LOG, logs / "agent.log")
    assert writer.stdout is not None
    writer.stdout.readline()
    reader = python(READ_A_LOG, logs / "agent.log")
    assert reader.stdout is not None
    reader.stdout.readline()
    try:
        assert sorted(members(folder, os.getpid(), os.getsid(0))) == sorted([marked.pid, writer.pid])
        guard.close()
        assert (marked.wait(5), writer.wait(5)) == (-signal.SIGKILL, -signal.SIGKILL)
        assert (other.poll(), reader.poll(), wandb.poll()) == (None, None, None)
        assert not folder.exists()
        assert (kept / "ray" / "raylet.out").read_bytes() == b"x" * 2**18, "the end of the log"
        assert (kept / "ray").stat().st_mode & 0o077 == 0
    finally:
        for process in (marked, wandb, other, writer, reader):
            process.kill()
            process.wait()


def test_the_guard_survives_signals_and_the_death_of_its_process(tmp_path: Path):
    folder = tmp_path / "cluster"
    folder.mkdir()
    code = (
        "import os, signal; from pathlib import Path; from mars.cluster.guard import Guard\n"
        f"guard = Guard(Path({str(folder)!r}), None); print(guard._process.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    marked = python(SLEEP, **{MARK: str(folder)})
    try:
        subprocess.run([sys.executable, "-c", code], env=environment, check=False, stdout=subprocess.PIPE)
        assert marked.wait(10) == -signal.SIGKILL
        end = time.monotonic() + 10
        while folder.exists() and time.monotonic() < end:
            time.sleep(0.02)
        assert not folder.exists()
    finally:
        marked.kill()
        marked.wait()
