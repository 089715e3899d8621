"""Time of a training step and its stages, compared with the same step in TRL's GRPOTrainer.

    python scripts/bench.py step --picture bench_step.png > bench_step.json
    python scripts/bench.py step --contenders ours_ray trl --rounds 5

Every contender runs in a fresh process, in turns, on the same generated workload. docs/performance.md explains the
figures. Exit code 1: a contender failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from scripts.bench.contenders import CONTENDERS, OURS, TRL, Plan, overrides, run_contender
from scripts.bench.launch import make_workload, say
from scripts.bench.machine import busy_share, machine_facts
from scripts.bench.paths import path_option
from scripts.bench.process import ContenderFailed
from scripts.bench.summary import Run, check, contender_report, ratio, rounded
from scripts.bench.training import step_settings
from scripts.bench.workload import IMAGE_SIZE, MODEL_FOLDER, NUM_SOURCES

RATIO_TARGETS = {("ours_ray", TRL): 0.6, ("ours_anchored", "ours_ray"): 0.95}
LAUNCH_TARGETS = {"ours_ray": 25.0, "ours_local": 15.0, "ours_anchored": 25.0}  # seconds
DRIVER_SHARE_TARGET = 0.03
HELP_TARGET = 0.5  # seconds
BUSY_SHARE = 0.1  # of the CPU, used by other programs: above this the figures mean little


def main(arguments: Sequence[str]) -> int:
    options = parse_options(arguments)
    machine = machine_facts() | {"load_average_at_start": os.getloadavg(), "cpu_busy_at_start": busy_share()}
    _warn_if_busy(machine["cpu_busy_at_start"])
    help_seconds = _help_seconds()
    runs: dict[str, list[Run]] = {contender: [] for contender in options.contenders}
    failures = []
    with tempfile.TemporaryDirectory(prefix="mars_bench_", ignore_cleanup_errors=True) as folder:
        plan = Plan(
            folder=Path(folder),
            num_steps=options.steps,
            warm_up=options.warm_up,
            trl_threads=options.trl_threads,
            trl_sequences_per_forward=options.trl_sequences_per_forward,
            timeout=options.timeout,
        )
        num_prompts = plan.num_steps * step_settings().data.prompts_per_step
        workload = make_workload(plan.folder, num_prompts, [(NUM_SOURCES, IMAGE_SIZE)])
        for number in range(options.rounds):
            for contender in options.contenders:
                try:
                    runs[contender].append(run_contender(contender, plan, number))
                except ContenderFailed as failure:
                    failures.append({"contender": contender, "round": number, "reason": str(failure)})
                    say(str(failure))
                else:
                    _say_result(runs[contender][-1], number)
        rates, floors = _floors(plan, [contender for contender in OURS if runs.get(contender)])
    machine |= rates | {"load_average_at_end": os.getloadavg(), "cpu_busy_at_end": busy_share()}
    busiest = max([machine["cpu_busy_at_start"], *(run.cpu_busy_before for found in runs.values() for run in found)])
    machine["quiet"] = busiest <= BUSY_SHARE
    done = {contender: found for contender, found in runs.items() if found}
    report = {
        "settings": vars(options) | {"picture": str(options.picture)},
        "workload": workload,
        "contenders": {name: contender_report(found) | floors.get(name, {}) for name, found in done.items()},
        "checks": checks(done, help_seconds),
        "failures": failures,
        "machine": machine,
    }
    if options.picture is not None:
        from scripts.bench.step_picture import draw

        draw(report, options.picture)
    json.dump(rounded(report), sys.stdout, indent=2)
    print()
    return 1 if failures else 0


def checks(runs: Mapping[str, Sequence[Run]], help_seconds: float) -> dict[str, Any]:
    """Every figure with a target, for the contenders that ran."""
    found = {
        f"{over}/{under}": ratio(runs[over], runs[under], target)
        for (over, under), target in RATIO_TARGETS.items()
        if over in runs and under in runs
    }
    for contender, target in LAUNCH_TARGETS.items():
        if contender in runs:
            report = contender_report(runs[contender])
            found[f"{contender} launch_to_first_step"] = check(report["launch_to_first_step"], target)
            found[f"{contender} driver_share"] = check(report["driver_share"], DRIVER_SHARE_TARGET)
    return found | {"mars --help": check(help_seconds, HELP_TARGET)}


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.py step", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=3, help="processes of each contender, in turns")
    parser.add_argument("--steps", type=int, default=12, help="steps of each process, warm-up included")
    parser.add_argument("--warm-up", type=int, default=3, help="number of first steps that are not counted")
    parser.add_argument("--trl-threads", type=int, default=2)
    parser.add_argument("--trl-sequences-per-forward", type=int, default=64, help="must divide 128")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds that a process may take")
    parser.add_argument("--picture", type=path_option, default=None, help="a PNG file")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or not 1 <= options.warm_up < options.steps:
        parser.error("needs 1 round or more, and 1 <= warm-up < steps")
    return options


def _floors(plan: Plan, names: Sequence[str]) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """Called after all runs, because floors need torch and this process must stay small while others are timed."""
    from scripts.bench.step_floor import measured_floors

    images = (NUM_SOURCES, IMAGE_SIZE)
    runs = {name: (overrides(name, plan, plan.folder / name), images) for name in names}
    rates, floors = measured_floors(runs, plan.folder / MODEL_FOLDER)
    return rates, {name: {"floor": floor} for name, floor in floors.items()}


def _help_seconds() -> float:
    """Median seconds of five starts of `mars --help`, after one that fills the file cache."""
    command = Path(sys.executable).with_name("mars")
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        subprocess.run([str(command), "--help"], stdout=subprocess.DEVNULL, check=True)
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:])


def _say_result(run: Run, number: int) -> None:
    say(
        f"round {number + 1}: {run.contender}: {median(run.step_seconds):.3f} s per step, "
        f"{run.launch_to_first_step:.1f} s to the end of the first"
    )
    _warn_if_busy(run.cpu_busy_before)


def _warn_if_busy(share: float) -> None:
    if share > BUSY_SHARE:
        say(f"warning: other programs use {share:.0%} of the CPU; the figures mean little")
