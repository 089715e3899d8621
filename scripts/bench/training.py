"""Start a training run as a user does and watch it from outside."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mars.config.folders import quoted
from mars.config.load import load_config
from mars.config.schema import TrainConfig
from mars.tracking.jsonl import METRICS_FILE, read_metrics
from scripts.bench.process import END_SECONDS, ContenderFailed, run_process
from scripts.bench.workload import MODEL_FOLDER

BENCH = Path(__file__).resolve().parent
EXPERIMENT = "bench_step"


@dataclass(frozen=True)
class Job:
    """special: the job's own overrides. folder: that of the workload. timeout: of the whole run, in seconds.

    experiment: name of an experiment in scripts/bench/experiment or configs/experiment.
    kill_after_last_step: only for cluster=local, because Ray's processes would stay for a while. The run gets one more
    step and is killed in it, so that it writes neither checkpoint nor policy. If it is not done after `timeout`, it is
    killed at once.
    """

    name: str
    special: tuple[str, ...]
    folder: Path
    rows_file: str
    run_dir: Path
    num_steps: int
    timeout: float
    experiment: str = EXPERIMENT
    kill_after_last_step: bool = False


@dataclass(frozen=True)
class Done:
    """start, ends: when the process started and each step ended, in seconds since the epoch. rows: of metrics.jsonl."""

    start: float
    ends: Sequence[float]
    rows: Sequence[Mapping[str, Any]]


def step_settings() -> TrainConfig:
    """The experiment that all contenders share."""
    return load_config("train", [f"experiment={EXPERIMENT}", "data.train_files=[none]"], [str(BENCH)])


def job_overrides(job: Job) -> list[str]:
    """The experiment, the job's own overrides, its number of steps, and the paths of its files."""
    settings = {
        "run.dir": quoted(str(job.run_dir)),
        "run.num_steps": job.num_steps + job.kill_after_last_step,
        "model.path": quoted(str(job.folder / MODEL_FOLDER)),
        "data.train_files": f"[{quoted(str(job.folder / job.rows_file))}]",
        "reward.function": quoted(f"{BENCH / 'reward.py'}:score"),
    }
    return [f"experiment={job.experiment}", *job.special, *(f"{key}={value}" for key, value in settings.items())]


def run_job(job: Job, after_step: Callable[[int], None] = lambda _: None) -> Done:
    """Run `python -m mars.main` to its end, or kill it after its last step (`kill_after_last_step`).

    A step ends when its row is in metrics.jsonl.

    after_step: called with the number of finished steps whenever it has grown, while the next step runs.
    Raises ContenderFailed as `run_process`, and if a step had no gradient.
    """
    command = [sys.executable, "-m", "mars.main", "--config-dir", str(BENCH), *job_overrides(job)]
    metrics, ends, size = job.run_dir / METRICS_FILE, [], 0

    def watch() -> None:
        nonlocal size
        if metrics.exists() and metrics.stat().st_size > size:
            now, rows = time.time(), metrics.read_bytes()
            size = len(rows)
            ends.extend([now] * (rows.count(b"\n") - len(ends)))
            after_step(len(ends))

    log = job.run_dir.with_suffix(".log")
    kill = job.kill_after_last_step
    start = run_process(
        job.name, command, job.folder, log, {"OMP_NUM_THREADS": "1"}, job.timeout, watch,
        enough=lambda: kill and len(ends) >= job.num_steps, end_seconds=0.0 if kill else END_SECONDS,
    )  # fmt: skip
    rows = read_metrics(metrics).rows[: job.num_steps]
    if not all(row["actor/grad_norm"] for row in rows):
        raise ContenderFailed(f"{job.name}: a step without a gradient")
    return Done(start, tuple(ends), tuple(rows))
