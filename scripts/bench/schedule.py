"""What sampling ahead gains: steps of schedule=synchronous and asynchronous, one engine and one rank.

    python scripts/bench.py schedule > bench_schedule.json
    python scripts/bench.py schedule --response-tokens 64 --rounds 5

The step is that of the step benchmark, on one rank. The responses are so long that generation and update take about
equally long (`generation/update` in the report). The two schedules run in turns, each time in a new process. The first
steps are not counted, nor is the last one, which samples nothing ahead. docs/benchmarks.md explains the figures.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from scripts.bench.launch import make_workload, say
from scripts.bench.machine import busy_share, machine_facts
from scripts.bench.summary import Run, intervals, ratio, rounded
from scripts.bench.training import Job, run_job, step_settings
from scripts.bench.workload import IMAGE_SIZE, NUM_SOURCES, ROWS_FILE

SCHEDULES = ("synchronous", "asynchronous")
TARGET = 0.75  # asynchronous / synchronous
STAGES = ("gen", "update_actor", "wait_rollouts", "wait_update", "sync_weights", "driver", "step")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.py schedule", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="of each run")
    parser.add_argument("--warm-up", type=int, default=4, help="first steps that are not counted")
    parser.add_argument("--response-tokens", type=int, default=48)
    parser.add_argument("--engine", choices=("vllm", "hf"), default="vllm")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds that a run may take")
    options = parser.parse_args(arguments)
    if options.steps < options.warm_up + 3:
        parser.error(f"--steps: no step is left; got {options.steps}; give {options.warm_up + 3} or more")
    runs: dict[str, list[Run]] = {schedule: [] for schedule in SCHEDULES}
    with tempfile.TemporaryDirectory() as place:
        rows = (options.steps + 1) * step_settings().data.prompts_per_step
        facts = make_workload(Path(place), rows, [(NUM_SOURCES, IMAGE_SIZE)])
        for number in range(options.rounds):
            for schedule in SCHEDULES if number % 2 == 0 else SCHEDULES[::-1]:
                runs[schedule].append(measure(schedule, number, Path(place), options))
    sys.stdout.write(json.dumps(rounded(report(runs, vars(options), facts)), indent=2) + "\n")
    return 0


def measure(schedule: str, number: int, folder: Path, options: argparse.Namespace) -> Run:
    """Raises ContenderFailed if the run fails."""
    busy = busy_share()
    special = (
        f"schedule={schedule}",
        f"rollout={options.engine}",
        f"rollout.max_response_tokens={options.response_tokens}",
        "actor.num_workers=1",
        "algorithm.importance_cap=2.0",  # the same loss in both
        "checkpoint.every=0",
    )
    name = f"{schedule}_{number}"
    job = Job(name, special, folder, ROWS_FILE, folder / name, options.steps, options.timeout)
    done = run_job(job)
    seconds = intervals(done.ends[:-1], options.warm_up)
    rows = tuple(done.rows[options.warm_up : -1])
    say(f"round {number + 1}: {schedule}: {median(seconds):.3f} s a step; other programs used {busy:.0%} of the CPU")
    tokens = median(row["response_length/mean"] for row in rows)
    return Run(schedule, number, seconds, done.ends[0] - done.start, tokens, busy, rows)


def report(runs: dict[str, list[Run]], options: dict[str, Any], workload: dict[str, Any]) -> dict[str, Any]:
    stages = {schedule: _stages(found) for schedule, found in runs.items()}
    alone = stages["synchronous"]
    return {
        "settings": options,
        "machine": machine_facts() | {"cpu_busy_before": [run.cpu_busy_before for r in runs.values() for run in r]},
        "workload": workload,
        "stages": stages,
        "generation/update": alone["gen"] / alone["update_actor"],
        "staleness_max": {
            schedule: max((row.get("rollout/staleness_max", 0.0) for run in found for row in run.rows), default=0.0)
            for schedule, found in runs.items()
        },
        "asynchronous/synchronous": ratio(runs["asynchronous"], runs["synchronous"], TARGET),
    }


def _stages(runs: Sequence[Run]) -> dict[str, float]:
    """Median seconds of each stage over the counted steps of all runs. Stages that no step has are left out."""
    rows = [row for run in runs for row in run.rows]
    found = {stage: [row[f"timing_s/{stage}"] for row in rows if f"timing_s/{stage}" in row] for stage in STAGES}
    return {stage: median(seconds) for stage, seconds in found.items() if seconds}
