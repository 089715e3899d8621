"""Runs one contender in a fresh process and times it from outside."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from scripts.bench.machine import busy_share
from scripts.bench.process import ContenderFailed, run_process
from scripts.bench.summary import Run, intervals
from scripts.bench.training import BENCH, Job, job_overrides, run_job, step_settings
from scripts.bench.workload import ROWS_FILE

OURS: Mapping[str, tuple[str, ...]] = {
    "ours_ray": (),
    "ours_local": ("cluster=local", "cluster.device=cpu", "actor.num_workers=1"),
    "ours_anchored": ("anchor=mono", "rollout.samples_per_prompt=6"),
}
TRL = "trl"
CONTENDERS = (*OURS, TRL)


@dataclass(frozen=True)
class Plan:
    """folder: folder of the workload. warm_up: number of first steps that are not counted. timeout: in seconds."""

    folder: Path
    num_steps: int
    warm_up: int
    trl_threads: int
    trl_sequences_per_forward: int
    timeout: float


def overrides(contender: str, plan: Plan, run_dir: Path) -> list[str]:
    """The overrides of one of our contenders."""
    return job_overrides(_job(contender, plan, run_dir))


def _job(contender: str, plan: Plan, run_dir: Path) -> Job:
    return Job(contender, OURS[contender], plan.folder, ROWS_FILE, run_dir, plan.num_steps, plan.timeout)


def run_contender(contender: str, plan: Plan, number: int) -> Run:
    """Run a contender once. number: of the round, for the file names. Raises ContenderFailed."""
    busy = busy_share()
    return _run_trl(plan, number, busy) if contender == TRL else _run_ours(contender, plan, number, busy)


def _run_ours(contender: str, plan: Plan, number: int, busy: float) -> Run:
    done = run_job(_job(contender, plan, plan.folder / f"{contender}_{number}"))
    tokens = fmean(row["response_length/mean"] for row in done.rows)
    return _timed(contender, number, plan, done.start, done.ends, tokens, busy, done.rows)


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
    command = [sys.executable, "-m", "scripts.bench.trl_contender", str(plan.folder), json.dumps(settings), str(out)]
    environment = {"OMP_NUM_THREADS": str(plan.trl_threads), "PYTHONPATH": str(BENCH.parents[1])}
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
