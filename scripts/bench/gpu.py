"""Steps of a random Qwen2.5-VL-3B on a GPU: time and tokens of each stage, memory, MFU.

    python scripts/bench.py gpu --folder bench_gpu > bench_gpu.json
    python scripts/bench.py gpu --cases six_1600x900 --rounds 1 --overrides model.attention=flash_attention_2
    python scripts/bench.py gpu --rollout scripted --variants checkpointing lora --budget-seconds 300 --json bench.json
    python scripts/bench.py gpu --smoke > /dev/null

Every run is `python -m mars.main`. The variant `checkpointing` runs with each of --packings (actor.packing) in turns,
the other variants only with the first of them. docs/performance.md explains variants and figures. Exit code 1: a run
failed or none ran. 4: there are too few GPUs, or several kinds, or their peak TFLOP/s are unknown.
--smoke runs the whole benchmark on a CPU with a tiny model. Its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mars.errors import SetupError
from mars.output.files import write_atomically
from scripts.bench.gpu_report import PACKINGS, checks
from scripts.bench.gpu_runs import ROLLOUTS, Budget, Runner, planned_runs
from scripts.bench.gpu_variants import VARIANTS
from scripts.bench.gpu_work import UnknownGpu, peak_tflops
from scripts.bench.gpu_workload import CASES, SMOKE, Case
from scripts.bench.launch import child_environment, say
from scripts.bench.machine import machine_facts
from scripts.bench.paths import path_option
from scripts.bench.summary import rounded


def main(arguments: Sequence[str]) -> int:
    options = parse_options(arguments)
    gpus = [] if options.smoke else gpus_seen()
    try:
        peak = None if options.smoke else usable_peak(gpus, options)
    except (SetupError, UnknownGpu) as problem:
        say(str(problem))
        return SetupError.exit_code
    budget = Budget(options.budget_seconds)
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mars_bench_")))
        folder.mkdir(parents=True, exist_ok=True)
        about: dict[str, Any] = {
            "settings": {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()},
            "machine": machine_facts() | {"gpus": gpus, "peak_tflops": peak},
        }
        memory = None if options.smoke else gpus[0]["memory_gib"]
        runner = Runner(folder.absolute(), options, peak, memory, budget, lambda: keep(about, runner, options.json))
        runner.changed()  # writes a first report, before any run
        about["workload"] = make_workload(folder.absolute(), options)
        runner.run_all(list(planned_runs(cases_of(options), options.variants, options.packings, options.rounds)))
    print(as_json(about, runner))
    return 1 if runner.failures or not runner.found else 0


def as_json(about: Mapping[str, Any], runner: Runner) -> str:
    cases = runner.cases()
    results = {"cases": cases, "checks": checks(cases), "skipped": runner.skipped, "failures": runner.failures}
    return json.dumps(rounded({**about, **results}), indent=2)


def keep(about: Mapping[str, Any], runner: Runner, file: Path | None) -> None:
    if file is not None:
        write_atomically(file, as_json(about, runner) + "\n")


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.py gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["checkpointing"])
    parser.add_argument("--packings", nargs="+", choices=PACKINGS, default=list(PACKINGS))
    parser.add_argument("--launch", choices=("local", "ray"), default="local", help="one process, or workers on Ray")
    parser.add_argument("--trainers", type=int, default=1, help="ranks of the trainer, with --launch ray")
    parser.add_argument("--rollout", choices=ROLLOUTS, default="vllm")
    parser.add_argument("--prompts", type=int, default=16, help="prompts of a step (a step has two updates)")
    parser.add_argument("--samples", type=int, default=8, help="responses to a prompt")
    parser.add_argument("--response-tokens", type=int, default=256)
    parser.add_argument("--steps", type=int, default=4, help="steps of each run, warm-up included")
    parser.add_argument("--warm-up", type=int, default=1, help="number of first steps that are not counted")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each packing, in turns")
    parser.add_argument("--peak-tflops", type=float, default=None, help="peak of one GPU: dense bfloat16")
    parser.add_argument("--overrides", nargs="*", default=[], help="settings of the runs, key=value")
    parser.add_argument("--folder", type=path_option, default=None, help="where model and data stay for the next call")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds that a run may take")
    parser.add_argument("--budget-seconds", type=float, default=None, help="start no run that would end later")
    parser.add_argument("--json", type=path_option, default=None, help="file for the report, written after every run")
    parser.add_argument("--smoke", action="store_true", help="only test the benchmark: a tiny model on the CPU")
    options = parser.parse_args(arguments)
    if options.smoke:
        options.launch, options.trainers = "local", 1
        options.rollout = "hf" if options.rollout == "vllm" else options.rollout
        options.prompts, options.samples, options.response_tokens = 2, 2, 4
        options.steps, options.warm_up, options.rounds = 2, 1, 1
    if not 1 <= options.warm_up < options.steps or options.rounds < 1:
        parser.error("needs 1 <= warm-up < steps and 1 round or more")
    if options.prompts < 2 or options.prompts % 2 or options.trainers < 1:
        parser.error("needs an even number of prompts, since a step has two updates, and 1 trainer or more")
    if options.trainers > 1 and options.launch == "local":
        parser.error("--launch local has one trainer; give --launch ray")
    return options


def gpus_seen() -> list[dict[str, Any]]:
    """Name and memory of each GPU. A separate process asks CUDA, so that this one takes no GPU memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_gpu_facts)


def _gpu_facts() -> list[dict[str, Any]]:
    import torch

    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [{"name": gpu.name, "memory_gib": gpu.total_memory / 2**30} for gpu in found]


def usable_peak(gpus: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> float:
    """Peak TFLOP/s of one GPU. Raises SetupError for too few GPUs or several kinds, UnknownGpu for an unknown peak."""
    if not gpus:
        raise SetupError("no GPU: torch.cuda.is_available() is false; run this on one, or give --smoke")
    needed = 1 if options.launch == "local" else options.trainers + 1
    if len(gpus) < needed:
        raise SetupError(f"too few GPUs for --launch {options.launch}: needs {needed}; got {len(gpus)}")
    names = sorted({gpu["name"] for gpu in gpus})
    if len(names) > 1:
        raise SetupError(f"GPUs of several kinds; got {names}; show one kind (CUDA_VISIBLE_DEVICES)")
    return peak_tflops(names[0], options.peak_tflops)


def cases_of(options: argparse.Namespace) -> list[Case]:
    return [SMOKE] if options.smoke else [CASES[name] for name in options.cases]


def make_workload(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Write model and data in a separate process, which frees its GPU memory when it ends."""
    say("making the workload")
    size, device = ("tiny", "cpu") if options.smoke else ("3b", "cuda")
    num_prompts, names = options.prompts * options.steps, [case.name for case in cases_of(options)]
    command = [sys.executable, "-m", "scripts.bench.gpu_workload", str(folder), size, device, str(num_prompts), *names]
    done = subprocess.run(
        command, env=child_environment(), stdout=subprocess.PIPE, check=True
    )  # fmt: skip
    return json.loads(done.stdout)
