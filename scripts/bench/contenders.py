"""Runs one contender in a fresh process and times it from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.machine import busy_share
from bench.summary import Run, intervals
from bench.workload import MODEL_FOLDER, ROWS_FILE

from mars.config.folders import quoted
from mars.config.load import load_config
from mars.config.schema import TrainConfig
from mars.tracking.jsonl import METRICS_FILE, read_metrics

BENCH = Path(__file__).resolve().parent
EXPERIMENT = "bench_step"
OURS: Mapping[str, tuple[str, ...]] = {
    "ours_ray": (),
    "ours_local": ("cluster=local", "cluster.device=cpu", "actor.num_workers=1"),
    "ours_anchored": ("anchor=mono", "rollout.samples_per_prompt=6"),
}
TRL = "trl"
CONTENDERS = (*OURS, TRL)

_POLL_SECONDS = 0.01
_LOG_LINES = 20
_END_SECONDS = 30.0


class ContenderFailed(Exception):
    """The message ends with the last lines of the process' output."""


@dataclass(frozen=True)
class Plan:
    """folder: the workload's. warm_up: first steps that are not counted. Times in seconds."""

    folder: Path
    num_steps: int
    warm_up: int
    trl_threads: int
    trl_sequences_per_forward: int
    timeout: float


def step_settings() -> TrainConfig:
    """The experiment all contenders take their settings from."""
    return load_config("train", [f"experiment={EXPERIMENT}", "data.train_files=[none]"], [str(BENCH)])


def overrides(contender: str, plan: Plan, run_dir: Path) -> list[str]:
    """Of one of our contenders: the experiment, what is special about it, and where its files are."""
    settings = {
        "run.dir": quoted(str(run_dir)),
        "run.num_steps": plan.num_steps,
        "model.path": quoted(str(plan.folder / MODEL_FOLDER)),
        "data.train_files": f"[{quoted(str(plan.folder / ROWS_FILE))}]",
        "reward.function": quoted(f"{BENCH / 'reward.py'}:score"),
    }
    return [f"experiment={EXPERIMENT}", *OURS[contender], *(f"{key}={value}" for key, value in settings.items())]


def run_contender(contender: str, plan: Plan, number: int) -> Run:
    """number: of the run, for the names of its files. Raises ContenderFailed."""
    busy = busy_share()
    return _run_trl(plan, number, busy) if contender == TRL else _run_ours(contender, plan, number, busy)


def _run_ours(contender: str, plan: Plan, number: int, busy: float) -> Run:
    """`python -m mars.main` as a user starts it. A step ends when its row is in metrics.jsonl."""
    run_dir = plan.folder / f"{contender}_{number}"
    command = [sys.executable, "-m", "mars.main", "--config-dir", str(BENCH), *overrides(contender, plan, run_dir)]
    metrics, ends, size = run_dir / METRICS_FILE, [], 0

    def watch() -> None:
        nonlocal size
        if metrics.exists() and metrics.stat().st_size > size:
            now, rows = time.time(), metrics.read_bytes()
            size = len(rows)
            ends.extend([now] * (rows.count(b"\n") - len(ends)))

    start = run_process(
        contender, command, plan.folder, run_dir.with_suffix(".log"), {"OMP_NUM_THREADS": "1"}, plan.timeout, watch
    )
    rows = read_metrics(metrics).rows
    if not all(row["actor/grad_norm"] for row in rows):
        raise ContenderFailed(f"{contender}: a step without a gradient")
    tokens = fmean(row["response_length/mean"] for row in rows)
    return _timed(contender, number, plan, start, ends, tokens, busy, rows)


def _run_trl(plan: Plan, number: int, busy: float) -> Run:
    config = step_settings()
    settings = {
        "num_steps": plan.num_steps,
        "threads": plan.trl_threads,
        "sequences_per_forward": plan.trl_sequences_per_forward,
        "prompts_per_step": config.data.prompts_per_step,
        "samples_per_prompt": config.rollout.samples_per_prompt,
        "response_tokens": config.rollout.max_response_tokens,
        "learning_rate": config.actor.learning_rate,
    }
    out = plan.folder / f"{TRL}_{number}.json"
    command = [sys.executable, "-m", "bench.trl_contender", str(plan.folder), json.dumps(settings), str(out)]
    environment = {"OMP_NUM_THREADS": str(plan.trl_threads), "PYTHONPATH": str(BENCH.parent)}
    start = run_process(TRL, command, plan.folder, out.with_suffix(".log"), environment, plan.timeout, lambda: None)
    result = json.loads(out.read_text())
    return _timed(TRL, number, plan, start, result["ends"], result["response_tokens"], busy, ())


def _timed(
    contender: str,
    number: int,
    plan: Plan,
    start: float,
    ends: Sequence[float],
    tokens: float,
    busy: float,
    rows: Sequence[Mapping[str, Any]],
) -> Run:
    if len(ends) != plan.num_steps:
        raise ContenderFailed(f"{contender}: {len(ends)} of {plan.num_steps} steps")
    if tokens != step_settings().rollout.max_response_tokens:
        raise ContenderFailed(f"{contender}: responses of {tokens} tokens; they must all have the full length")
    return Run(
        contender=contender,
        number=number,
        step_seconds=intervals(ends, plan.warm_up),
        launch_to_first_step=ends[0] - start,
        response_tokens=tokens,
        cpu_busy_before=busy,
        rows=tuple(rows[plan.warm_up :]),
    )


def run_process(
    name: str,
    command: Sequence[str],
    folder: Path,
    log: Path,
    environment: Mapping[str, str],
    timeout: float,
    watch: Callable[[], None],
) -> float:
    """Runs `command` in `folder` to its end, calling `watch` all the while and once more. Returns when it was started.

    Raises ContenderFailed if it ends with another code than 0, or takes longer than `timeout` seconds.
    """
    # An empty PYTHONDONTWRITEBYTECODE lets Python keep the bytecode of what it imports: without it every process
    # start compiles torch, transformers and vLLM anew, and start-up takes twice as long.
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
                if time.time() - start > timeout:
                    raise ContenderFailed(f"{name}: not done after {timeout:g} s\n{_tail(log)}")
                time.sleep(_POLL_SECONDS)
        finally:
            if process.poll() is None:
                _end(process)
    watch()
    if process.returncode:
        raise ContenderFailed(f"{name}: exit code {process.returncode}\n{_tail(log)}")
    return start


def _end(process: subprocess.Popen[bytes]) -> None:
    """Time enough to end Ray's processes, too."""
    process.terminate()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
