"""Runs one contender in a fresh process and times it from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.machine import busy_share
from bench.summary import Run, intervals
from bench.workload import MODEL_FOLDER, ROWS_FILE

from mars.config.load import load_config
from mars.config.schema import TrainConfig

BENCH = Path(__file__).resolve().parent
EXPERIMENT = "bench_step"
OURS: Mapping[str, tuple[str, ...]] = {
    "ours_ray": (),
    "ours_local": ("cluster=local", "cluster.device=cpu", "actor.num_workers=1"),
    "ours_anchored": ("anchor=mono", "rollout.samples_per_prompt=6"),
}
TRL = "trl"
CONTENDERS = (*OURS, TRL)

_POLL_SECONDS = 0.02
_LOG_LINES = 20


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


def run_contender(contender: str, plan: Plan, number: int) -> Run:
    """number: of the run, for the names of its files. Raises ContenderFailed."""
    busy = busy_share()
    return _run_trl(plan, number, busy) if contender == TRL else _run_ours(contender, plan, number, busy)


def _run_ours(contender: str, plan: Plan, number: int, busy: float) -> Run:
    """`python -m mars.main` as a user starts it. A step ends when its row is in metrics.jsonl."""
    run_dir = plan.folder / f"{contender}_{number}"
    settings = {
        "run.dir": run_dir,
        "run.num_steps": plan.num_steps,
        "model.path": plan.folder / MODEL_FOLDER,
        "data.train_files": f"[{plan.folder / ROWS_FILE}]",
        "reward.function": f"'{BENCH / 'reward.py'}:score'",
    }
    command = [sys.executable, "-m", "mars.main", "--config-dir", str(BENCH), *OURS[contender]]
    command += [f"experiment={EXPERIMENT}", *(f"{key}={value}" for key, value in settings.items())]
    metrics, ends = run_dir / "metrics.jsonl", []

    def watch() -> None:
        if len(ends) < plan.num_steps and metrics.is_file():
            ends.extend([time.time()] * (metrics.read_bytes().count(b"\n") - len(ends)))

    start = _run(command, plan, run_dir.with_suffix(".log"), {"OMP_NUM_THREADS": "1"}, watch)
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    return _timed(contender, plan, start, ends, rows[-1]["response_length/mean"], busy, rows)


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
    start = _run(command, plan, out.with_suffix(".log"), environment, lambda: None)
    result = json.loads(out.read_text())
    return _timed(TRL, plan, start, result["ends"], result["response_tokens"], busy, [])


def _timed(
    contender: str, plan: Plan, start: float, ends: list[float], tokens: float, busy: float, rows: list[dict[str, Any]]
) -> Run:
    if len(ends) != plan.num_steps:
        raise ContenderFailed(f"{contender}: {len(ends)} of {plan.num_steps} steps")
    return Run(
        contender=contender,
        step_seconds=intervals(ends, plan.warm_up),
        launch_to_first_step=ends[0] - start,
        response_tokens=tokens,
        cpu_busy_before=busy,
        rows=tuple(rows[plan.warm_up :]),
    )


def _run(command: list[str], plan: Plan, log: Path, environment: Mapping[str, str], watch: Callable[[], None]) -> float:
    """Runs `command` to its end, calling `watch` all the while. Returns when it was started."""
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with log.open("wb") as output:
        start = time.time()
        process = subprocess.Popen(
            command,
            cwd=plan.folder,
            env={**os.environ, **offline, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            while process.poll() is None:
                watch()
                if time.time() - start > plan.timeout:
                    raise ContenderFailed(f"{command[2]}: not done after {plan.timeout:g} s\n{_tail(log)}")
                time.sleep(_POLL_SECONDS)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode:
        raise ContenderFailed(f"{command[2]}: exit code {process.returncode}\n{_tail(log)}")
    watch()
    return start


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
