"""Run a child process and watch it from outside."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_POLL_SECONDS = 0.01
_LOG_LINES = 20
END_SECONDS = 30.0


class ContenderFailed(Exception):
    """A run failed. If its process failed or took too long, the message ends with the last lines of the output."""


def run_process(
    name: str,
    command: Sequence[str],
    folder: Path,
    log: Path,
    environment: Mapping[str, str],
    timeout: float,
    watch: Callable[[], None],
    enough: Callable[[], bool] = lambda: False,
    end_seconds: float = END_SECONDS,
) -> float:
    """Run `command` in `folder` to its end. Calls `watch` every 10 ms and once after the end. Returns the start time.

    enough: called after each `watch`. If it returns true, the process is killed, which is not a failure.
    end_seconds: how long a process that runs too long may take to end by itself before it is killed.
    Raises ContenderFailed if the exit code is not 0 or the process takes longer than `timeout` seconds.
    """
    # An empty PYTHONDONTWRITEBYTECODE lets Python keep the bytecode of what it imports. Otherwise every process start
    # would compile torch, transformers and vLLM again, and starting would take twice as long.
    common = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONDONTWRITEBYTECODE": ""}
    with log.open("wb") as output:
        start = time.time()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **common, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            while process.poll() is None:
                watch()
                if enough():
                    process.kill()
                    process.wait()
                    return start
                if time.time() - start > timeout:
                    raise ContenderFailed(f"{name}: not done after {timeout:g} s\n{_tail(log)}")
                time.sleep(_POLL_SECONDS)
        finally:
            if process.poll() is None:
                _end(process, end_seconds)
    watch()
    if process.returncode:
        raise ContenderFailed(f"{name}: exit code {process.returncode}\n{_tail(log)}")
    return start


def _end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Terminate the process and give it `seconds` to end, as it may have to end Ray's processes first. If it
    still runs then, kill it. 0 seconds: kill it at once."""
    if seconds:
        process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
