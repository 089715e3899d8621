"""What supervision costs a training step. docs/benchmarks.md says what counts as supervision.

Measured in a run with Ray and vLLM. Driver, engines and trainer ranks each record their costs in a file of their own,
a ledger (ledger.py).
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median, quantiles, stdev
from typing import Any

from scripts.bench.launch import ROOT, make_workload, say
from scripts.bench.ledger import COUNTED, WARM_UP
from scripts.bench.process import run_process
from scripts.bench.summary import check
from scripts.bench.training import BENCH, Job, job_overrides
from scripts.bench.workload import IMAGE_SIZE, MODEL_FOLDER, NUM_SOURCES, ROWS_FILE

TARGET = 0.01  # share of a step
ROWS = 256
SETTINGS = ("data.eval_files=[]", "evaluation.before_training=false", "tracking.to=[]", "checkpoint.every=0")
"""Overrides of the quick start's experiment: its steps are measured without evaluations and checkpoints."""
END_WEIGHT = 2.0
"""A weight of the end token in the model's head. With it the token has a probability of 0.02 to 0.07 at first, so that
responses end one by one, and the engine sends many messages."""


def supervision(pairs: int, timeout: float) -> dict[str, Any]:
    """Raises ContenderFailed if the run fails."""
    steps = WARM_UP + COUNTED + 2 * pairs + 1  # the driver's ledger closes a step only when the next one begins
    with tempfile.TemporaryDirectory() as place:
        folder, ledgers = Path(place), Path(place) / "ledgers"
        ledgers.mkdir()
        make_workload(folder, ROWS, [(NUM_SOURCES, IMAGE_SIZE)])
        let_responses_end(folder / MODEL_FOLDER)
        job = Job("supervision", SETTINGS, folder, ROWS_FILE, folder / "run", steps, timeout, "quickstart")
        command = [sys.executable, "-m", "scripts.bench.supervised", str(ledgers)]
        command += ["--config-dir", str(BENCH), *job_overrides(job)]
        environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        say(f"supervision: a run of {steps} steps")
        run_process(job.name, command, folder, folder / "run.log", environment, timeout, lambda: None)
        return report({path.stem: json.loads(path.read_text()) for path in sorted(ledgers.glob("*.json"))})


def let_responses_end(model: Path) -> None:
    """Give the end token END_WEIGHT in the workload's model, which would otherwise never sample it."""
    from safetensors.torch import load_file, save_file

    weights = load_file(model / "model.safetensors")
    end = json.loads((model / "generation_config.json").read_text())["eos_token_id"]
    weights["lm_head.weight"][end, 0] = END_WEIGHT
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


def report(ledgers: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """ledgers: by process, one of which is the driver. Costs of processes that work at the same time are added up."""
    driver = [step for step in ledgers["driver"]["steps"] if step["kind"] in ("with", "without")]
    wall = sum(step["wall"] for step in driver)
    watchers = {
        name: sum(step["watchers"].get(name, 0.0) for step in driver) / wall
        for name in sorted({name for step in driver for name in step["watchers"]})
    }
    calls = {name: calls_per_step(ledger["steps"]) for name, ledger in ledgers.items()}
    each = {name: {hook: ledgers[name]["seconds_per_call"][hook] for hook in own} for name, own in calls.items()}
    seconds = sum(number * each[name][hook] for name, own in calls.items() for hook, number in own.items())
    step = median(step["wall"] for step in driver if step["kind"] == "with")
    cpu = {name: paired(ledger["steps"], "cpu") for name, ledger in ledgers.items()}
    cpu_per_step = sum(median(seconds for seconds, _ in pairs) for pairs in cpu.values())
    supervising = seconds + sum(watchers.values()) * step
    return {
        "calls_per_step": calls,
        "microseconds_per_call": {name: {hook: 1e6 * cost for hook, cost in own.items()} for name, own in each.items()},
        "milliseconds_of_calls_per_step": 1e3 * seconds,
        "watching_threads_share_of_time": watchers,
        "seconds_per_step": step,
        "cpu_seconds_per_step": cpu_per_step,
        "share_of_step": check(supervising / step, TARGET),
        "share_of_cpu": check(supervising / cpu_per_step, TARGET),
        "milliseconds_with_minus_without": {"wall": differences(paired(ledgers["driver"]["steps"], "wall"))}
        | {f"cpu of {name}": differences(pairs) for name, pairs in cpu.items()},
    }


def calls_per_step(steps: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    counted = [step["calls"] for step in steps if step["kind"] == "counted"]
    names = dict.fromkeys(name for calls in counted for name in calls)
    return {name: mean(calls.get(name, 0) for calls in counted) for name in names}


def paired(steps: Sequence[Mapping[str, Any]], clock: str) -> list[tuple[float, float]]:
    """(seconds of the step with supervision, seconds of the step with stubs in its place) of each pair of steps."""
    found = {kind: [step[clock] for step in steps if step["kind"] == kind] for kind in ("with", "without")}
    return list(zip(found["with"], found["without"], strict=False))  # the run may end within a pair


def differences(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Statistics of the differences, with minus without supervision, in milliseconds. A cost below `standard_error`
    (of the mean) cannot be shown."""
    found = [1e3 * (one - other) for one, other in pairs]
    return {
        "pairs": len(found),
        "median": median(found),
        "quartiles": quantiles(found, n=4)[::2],
        "mean": mean(found),
        "standard_error": stdev(found) / len(found) ** 0.5,
    }
