"""Processes that start at once, because they are forked from one that has imported torch and the like."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from select import select

# What runs import, and what they import with vLLM; each imports much more.
RUN = (
    "hydra._internal.config_loader_impl", "mars.actor.fsdp_trainer", "mars.checks.architecture", "mars.cluster.local",
    "mars.config.load", "mars.rollout.hf_engine", "mars.run", "transformers.models.auto.modeling_auto",
    "transformers.models.auto.processing_auto", "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
    "transformers.models.qwen2_5_vl.processing_qwen2_5_vl", "transformers.models.qwen2_vl.image_processing_qwen2_vl",
)  # fmt: skip
VLLM_RUN = (
    *RUN, "vllm.entrypoints.llm", "vllm.model_executor.models.qwen2_5_vl", "vllm.v1.engine.llm_engine",
    "vllm.v1.worker.cpu_worker",
)  # fmt: skip
_ANSWER_S = 280.0  # to import vLLM on a busy machine


class Forked:
    """A process that was started with `python ARGUMENTS`, in a session of its own."""

    def __init__(self, server: _Server, pid: int, output: Path) -> None:
        """output: the folder of its stdout and stderr."""
        self.pid = pid
        self._server, self._output, self._code = server, output, None

    def wait(self, timeout_s: float) -> int | None:
        """Its exit code, -number for a signal; None if it is stopped (SIGSTOP) or still runs after the time."""
        if self._code is None:
            answer = self._server.ask({"wait": self.pid, "timeout_s": timeout_s}, timeout_s)
            self._code = answer if isinstance(answer, int) else None
        return self._code

    def finish(self, timeout_s: float) -> int:
        """Its exit code. Raises TimeoutError, after having killed it."""
        code = self.wait(timeout_s)
        if code is None:
            self.kill()
            raise TimeoutError(f"a process has not ended in {timeout_s} s:\n{self.stderr[-3000:]}")
        return code

    def kill(self) -> None:
        """Kill its session, unless it has ended."""
        if self.wait(0) is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.wait(_ANSWER_S)

    @property
    def stdout(self) -> str:
        return (self._output / "stdout").read_text()

    @property
    def stderr(self) -> str:
        return (self._output / "stderr").read_text()


def fork(
    arguments: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    output: Path,
    modules: tuple[str, ...],
    *,
    fresh: bool = False,
) -> Forked:
    """modules: imported before the fork. fresh: in a new interpreter after all."""
    server = _server(modules)
    files = {name: str(output / name) for name in ("stdout", "stderr")}
    pid = server.ask({"arguments": arguments, "cwd": str(cwd), "environment": environment, "fresh": fresh, **files})
    assert isinstance(pid, int)
    return Forked(server, pid, output)


class _Server:
    """fork_server.py."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fork_server.py")), *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # nothing that `select` does not see
            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        self._asked = 0
        atexit.register(self._process.communicate)

    def ask(self, message: dict, extra_s: float = 0.0) -> int | str | None:
        """The answer. A test that timed out may have left the answer to its own."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._asked += 1
        self._process.stdin.write(json.dumps(message | {"number": self._asked}).encode() + b"\n")
        number, answer = 0, None
        while number != self._asked:
            assert select([self._process.stdout], [], [], _ANSWER_S + extra_s)[0], f"no answer to {message}"
            number, answer = json.loads(self._process.stdout.readline())
        return answer


@cache
def _server(modules: tuple[str, ...]) -> _Server:
    """One for each process of pytest and list of modules: Ray does not start in a fork of one that imported vLLM."""
    return _Server(modules)
