"""Time and memory of forward and backward of one group: padded rows, rows that share images, shared-prefix packs.

    python scripts/bench.py trainer --picture bench_trainer.png > bench_trainer.json
    python scripts/bench.py trainer --models mid --rounds 1 --skip-memory

All layouts of a case run in turns in one process. Peak memory is measured in a separate process for each layout.
docs/benchmarks.md explains the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import torch

from mars.actor.batch import ForwardBatch
from mars.actor.model import PolicyModel
from scripts.bench.machine import busy_share, machine_facts
from scripts.bench.memory import in_own_process, status_mib
from scripts.bench.paths import path_option
from scripts.bench.speed import measured_rates
from scripts.bench.summary import rounded
from scripts.bench.trainer_cases import (
    LAYOUTS,
    MODELS,
    Case,
    Layout,
    ModelName,
    build_policy,
    case_work,
    forwards,
    packing_of,
)
from scripts.bench.trainer_floor import floor_seconds

CASES = (Case(131, 24, 8), Case(600, 60, 14), Case(1500, 60, 14))
FEW, MANY = Case(600, 60, 4), Case(600, 60, 16)
SPEED_TARGETS = {"131/24/8": 3.3, "600/60/14": 6.0, "1500/60/14": 8.0}  # padded / shared_prefix, mid
GROWTH_TARGET = 1.9  # shared_prefix, MANY / FEW, mid
SAME_LOGPROBS = 1e-4


@dataclass(frozen=True)
class Timing:
    """Seconds of all forwards and backwards of one group."""

    forward: float
    backward: float

    @property
    def total(self) -> float:
        return self.forward + self.backward


Timings = Mapping[Layout, Sequence[Timing]]


def main(arguments: Sequence[str]) -> int:
    options = parse_options(arguments)
    torch.set_num_threads(options.threads)
    machine = machine_facts() | {"threads": options.threads, "cpu_busy_at_start": busy_share()}
    rates = measured_rates()
    report: dict[str, Any] = {"settings": vars(options) | {"picture": str(options.picture)}, "machine": machine | rates}
    report["models"] = {name: bench_model(name, options, rates) for name in options.models}
    report["checks"] = checks(report["models"].get("mid", {}))
    report["machine"]["cpu_busy_at_end"] = busy_share()
    if options.picture is not None:
        from scripts.bench.trainer_picture import draw

        draw(report, options.picture)
    json.dump(rounded(report), sys.stdout, indent=2)
    print()
    return 0


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.py trainer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--cases", nargs="+", choices=[case.name for case in CASES], default=[c.name for c in CASES])
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each layout, after an untimed one")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens-per-forward", type=int, default=8192, help="most tokens; packs are not split")
    parser.add_argument("--skip-memory", action="store_true")
    parser.add_argument("--skip-growth", action="store_true", help="skip the runs with 4 and 16 responses of 60 tokens")
    parser.add_argument("--picture", type=path_option, default=None, help="a PNG file")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("needs 1 round or more")
    return options


def bench_model(name: ModelName, options: argparse.Namespace, rates: Mapping[str, float]) -> dict[str, Any]:
    policies: dict[Layout, PolicyModel] = {"padded": build_policy(name, "padded")}
    policies |= {"vision_once": policies["padded"], "shared_prefix": build_policy(name, "shared_prefix")}
    report: dict[str, Any] = {"parameters": sum(p.numel() for p in policies["padded"].parameters()), "cases": {}}
    for case in (case for case in CASES if case.name in options.cases):
        batches = {
            layout: forwards(case, layout, policies[layout], options.tokens_per_forward) for layout in LAYOUTS
        }  # fmt: skip
        runs = {layout: (policies[layout], batches[layout]) for layout in LAYOUTS}
        report["cases"][case.name] = case_report(timed_in_turns(name, case.name, runs, options.rounds))
        for layout, found in report["cases"][case.name]["layouts"].items():
            work = case_work(case, layout, policies[layout], len(batches[layout]))
            found |= {"forwards": len(batches[layout]), "operations": work.operations, "bytes": work.bytes}
            found["floor_seconds"] = floor_seconds(work, rates["operations_per_second"], rates["bytes_per_second"])
            if not options.skip_memory:
                found["peak_memory_mib"] = in_own_process(peak_memory_mib, name, case, layout, options)
    if not options.skip_growth:
        policy = policies["shared_prefix"]
        runs = {case.name: (policy, forwards(case, "shared_prefix", policy, 0)) for case in (FEW, MANY)}
        report["growth"] = growth_report(timed_in_turns(name, "growth", runs, options.rounds))
    return report


def timed_in_turns(
    model: str, label: str, runs: Mapping[Any, tuple[PolicyModel, Sequence[ForwardBatch]]], rounds: int
) -> dict[Any, list[Timing]]:
    """Time all runs in turns. The first round is a warm-up.

    With all LAYOUTS as runs, raises RuntimeError if their mean log-probs differ by more than SAME_LOGPROBS.
    """
    found: dict[Any, list[Timing]] = {key: [] for key in runs}
    sums: dict[Any, float] = {}
    for number in range(rounds + 1):
        for key, (policy, batches) in runs.items():
            timing, sums[key] = run_once(policy, batches)
            if number:
                found[key].append(timing)
            say(f"{model} {label} {key}: forward {timing.forward:.3f} s, backward {timing.backward:.3f} s")
    if set(runs) == set(LAYOUTS) and max(sums.values()) - min(sums.values()) > SAME_LOGPROBS:
        raise RuntimeError(f"{model} {label}: the layouts differ in the mean log-prob: {sums}")
    return found


def run_once(policy: PolicyModel, batches: Sequence[ForwardBatch]) -> tuple[Timing, float]:
    """The time of one run, and the mean log-prob of all response tokens."""
    policy.zero_grad(set_to_none=True)
    forward = backward = total = 0.0
    for batch in batches:
        start = time.perf_counter()
        logprobs, _ = policy(batch)
        loss = logprobs.sum()
        middle = time.perf_counter()
        loss.backward()
        forward += middle - start
        backward += time.perf_counter() - middle
        total += loss.item()
    return Timing(forward, backward), total / sum(len(batch.targets) for batch in batches)


def case_report(timings: Timings) -> dict[str, Any]:
    layouts = {
        layout: {
            "forward_seconds": median(timing.forward for timing in found),
            "backward_seconds": median(timing.backward for timing in found),
            "seconds": median(timing.total for timing in found),
        }
        for layout, found in timings.items()
    }
    report: dict[str, Any] = {"layouts": layouts}
    for layout in ("padded", "vision_once"):
        report[f"{layout}/shared_prefix"] = ratio(timings[layout], timings["shared_prefix"])
    return report


def growth_report(timings: Mapping[str, Sequence[Timing]]) -> dict[str, Any]:
    seconds = {name: median(timing.total for timing in found) for name, found in timings.items()}
    return {"seconds": seconds, "ratio": ratio(timings[MANY.name], timings[FEW.name])}


def ratio(over: Sequence[Timing], under: Sequence[Timing]) -> dict[str, Any]:
    """The median over the rounds of the ratio of a round. Times are compared within a round, because its runs follow
    each other directly."""
    rounds = [one.total / other.total for one, other in zip(over, under, strict=True)]
    return {"value": median(rounds), "of_each_round": rounds}


def checks(mid: Mapping[str, Any]) -> dict[str, Any]:
    """Every measured figure that has a target."""
    found = {}
    for name, case in mid.get("cases", {}).items():
        value = case["padded/shared_prefix"]["value"]
        found[f"mid {name} padded/shared_prefix"] = {
            "value": value,
            "at_least": SPEED_TARGETS[name],
            "met": value >= SPEED_TARGETS[name],
        }
    if "growth" in mid:
        value = mid["growth"]["ratio"]["value"]
        met = value <= GROWTH_TARGET
        found[f"mid shared_prefix {MANY.name} / {FEW.name}"] = {"value": value, "at_most": GROWTH_TARGET, "met": met}
    return found


def peak_memory_mib(name: ModelName, case: Case, layout: Layout, options: argparse.Namespace) -> float:
    """Peak memory of forward and backward, beyond the model and its gradients. Must be called in a fresh process."""
    torch.set_num_threads(options.threads)
    policy = build_policy(name, packing_of(layout))
    batches = forwards(case, layout, policy, options.tokens_per_forward)
    for parameter in policy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    # Linux: this sets the high-water mark to what is resident now (proc_pid_clear_refs(5)).
    Path("/proc/self/clear_refs").write_text("5")
    before = status_mib("VmRSS")
    for batch in batches:
        policy(batch)[0].sum().backward()
    return status_mib("VmHWM") - before


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
