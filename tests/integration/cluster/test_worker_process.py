"""Ending a worker ends what it has started, although the worker itself may be gone already. No Ray is running."""

from __future__ import annotations

import os
import subprocess

from mars.cluster.worker_process import _MARK, _kill


def test_processes_that_outlive_their_worker_end_with_it():
    started = [subprocess.Popen(["sleep", "60"], env={**os.environ, _MARK: mark}) for mark in ("999999-7", "999999-8")]
    try:
        _kill(999999, 7)
        assert [process.poll() for process in started] == [-9, None], "the other worker had the same number before"
    finally:
        for process in started:
            process.kill()
            process.wait()
