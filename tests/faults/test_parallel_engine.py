"""A vLLM engine of two processes, which share its model, on a CPU."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.integration.forked import VLLM_RUN, Forked
from tests.integration.workshop import start

JOB = Path(__file__).with_name("parallel_engine_job.py")


@pytest.mark.timeout(900)  # the engine starts twice, and each of its processes imports vLLM
def test_an_engine_of_two_processes_takes_new_weights_and_leaves_no_process(tmp_path):
    job = start([str(JOB), str(tmp_path)], tmp_path, tmp_path, VLLM_RUN)
    processes: list[psutil.Process] = []
    try:
        closed, running = reported(job, tmp_path / "stdout", 2, 600.0)
        assert (closed["started"], closed["left"]) == (2, 0)
        assert closed["before"] < 1e-4, "engine and trainer"
        assert closed["stale"] > 1e-2, "the update must matter for this test to mean anything"
        assert closed["after"] < 1e-4
        for images, encoder_runs, hit_rate in closed["reuse"]:
            assert (images, encoder_runs) == (4, 4)
            assert 0.3 < hit_rate < 1

        processes += map(psutil.Process, running["processes"])
        assert len(processes) >= 2
        os.kill(job.pid, signal.SIGKILL)
        assert job.wait(60.0) == -signal.SIGKILL
        wait_until(lambda: not any(map(is_running, processes)), 120.0)
        assert [process for process in processes if is_running(process)] == []
    finally:
        job.kill()
        for process in filter(is_running, processes):
            process.kill()


def reported(job: Forked, output: Path, number: int, timeout_s: float) -> list[dict]:
    """What the job has written to `output` so far, once these are so many lines."""

    def found() -> list[str]:
        lines = output.read_text().splitlines(keepends=True) if output.exists() else []
        return [line for line in lines if line.startswith("{") and line.endswith("\n")]

    wait_until(lambda: len(found()) >= number or job.wait(0) is not None, timeout_s)
    assert len(found()) >= number, job.stderr[-3000:]
    return [json.loads(line) for line in found()]


def wait_until(done: Callable[[], bool], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not done() and time.monotonic() < end:
        time.sleep(0.2)


def is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
