"""How time and memory of a step scale with samples, prompts, sources and image size, and over many steps.

    python scripts/bench.py scale --picture bench_scale.png > bench_scale.json
    python scripts/bench.py scale --sweeps samples --long-steps 0
    python scripts/bench.py scale --quick > /dev/null

Every point is one run of `python -m mars.main` on the workload of scripts/bench.py step. docs/performance.md explains
the figures. Exit code 1: a run failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from scripts.bench.launch import LAUNCHES, make_workload, say
from scripts.bench.machine import busy_share, machine_facts
from scripts.bench.memory import WINDOW, Memory, growth, is_ours, memory_of_child, processor_seconds_of_child
from scripts.bench.paths import path_option
from scripts.bench.process import ContenderFailed
from scripts.bench.summary import check, intervals, rounded, stage_seconds
from scripts.bench.training import Done, Job, job_overrides, run_job, step_settings
from scripts.bench.workload import IMAGE_SIZE, MODEL_FOLDER, prompt_tokens, rows_file

GROWTH_TARGET = 0.02
DRIVER_MEMORY_TARGET = 1.02  # driver memory, largest / smallest, over samples and over image sizes
DRIVER_SECONDS_TARGET = 2.0  # driver time per step, largest / smallest, over image sizes; it is 6 ms +- a third
DRIVER_SAMPLES_TARGET = 1.0  # driver time per rollout, with the most samples of a prompt / with the fewest
FLAT_FROM = 20  # memory must not grow after this step


@dataclass(frozen=True)
class Point:
    """samples: multi rollouts per prompt. prompts: number per step. sources: images per prompt. image_side: in pixels.

    anchor: anchor.kind; each anchor view gets one sample.
    """

    samples: int
    prompts: int
    sources: int
    image_side: int = IMAGE_SIZE
    anchor: str = "none"

    @property
    def shape(self) -> tuple[int, int]:
        return self.sources, self.image_side

    def overrides(self) -> tuple[str, ...]:
        """The settings of the point. Images are processed in full size, and prompts have room for them.

        Images are not decoded at the start, because the benchmark measures steps.
        """
        settings = step_settings()
        tokens = max(prompt_tokens(*self.shape), settings.data.max_prompt_tokens)
        longest = max(tokens + settings.rollout.max_response_tokens, settings.rollout.max_model_len)
        return (
            f"anchor={self.anchor}",
            f"rollout.samples_per_prompt={self.samples}",
            f"data.prompts_per_step={self.prompts}",
            f"actor.prompts_per_update={self.prompts}",
            "data.decode_at_start=false",
            f"data.max_image_pixels={self.image_side**2}",
            f"data.max_prompt_tokens={tokens}",
            f"rollout.max_model_len={longest}",
        )


BASE = Point(samples=8, prompts=16, sources=2)
SWEEPS = {"samples": (4, 8, 16), "prompts": (8, 16, 32), "sources": (1, 2, 4), "image_side": (112, 224, 448)}
QUICK = {"samples": (2, 4), "prompts": (2, 4), "sources": (1, 2), "image_side": (112, 224)}
Memories = Sequence[Mapping[str, Memory]]


def main(arguments: Sequence[str]) -> int:
    options = parse_options(arguments)
    base = replace(BASE, anchor=options.anchor)
    if options.quick:
        base = replace(base, samples=2, prompts=2)
    points = sweep_points(base, {name: (QUICK if options.quick else SWEEPS)[name] for name in options.sweeps})
    machine = machine_facts() | {"cpu_busy_at_start": busy_share()}
    settings = vars(options) | {"picture": str(options.picture), "base": asdict(base)}
    report: dict[str, Any] = {"settings": settings, "workload": {}, "failures": []}
    with tempfile.TemporaryDirectory(prefix="mars_bench_", ignore_cleanup_errors=True) as folder:
        runner = Runner(_made(folder, "sweeps"), options.launch, options.timeout, report["failures"])
        distinct = list(dict.fromkeys(point for sweep in points.values() for point in sweep))
        if distinct:
            # Every point has the same number of rows, because the driver holds them in memory.
            num_rows = max(point.prompts * options.steps for point in distinct)
            shapes = sorted({point.shape for point in distinct})
            report["workload"]["sweeps"] = make_workload(runner.folder, num_rows, shapes)
        found = {point: runner.run(point, options.steps, options.warm_up) for point in distinct}
        if options.long_steps:
            long_runner = replace(runner, folder=_made(folder, "long"))
            num_rows = base.prompts * options.long_steps
            report["workload"]["long_run"] = make_workload(long_runner.folder, num_rows, [base.shape])
            report["steps"] = long_runner.run_long(base, options.long_steps, options.warm_up)
        rates, floors = _floors([point for point in distinct if found[point]], runner, options.steps)
    report["sweeps"] = {
        name: [
            {name: getattr(point, name)} | found[point] | {"floor": floors[point]} for point in sweep if found[point]
        ]
        for name, sweep in points.items()
    }
    report["checks"] = checks(report["sweeps"], report.get("steps"))
    report["machine"] = machine | rates | {"cpu_busy_at_end": busy_share()}
    if options.picture is not None:
        from scripts.bench.scale_picture import draw

        draw(report, options.picture)
    json.dump(rounded(report), sys.stdout, indent=2)
    print()
    return 1 if report["failures"] else 0


def _floors(
    points: Sequence[Point], runner: Runner, num_steps: int
) -> tuple[dict[str, float], dict[Point, dict[str, Any]]]:
    """This machine's speed, and the floors of each point's stages: the least time that their work can take.

    Called after all runs, because this needs torch, and this process must stay small while other processes are timed.
    """
    if not points:
        return {}, {}
    from scripts.bench.step_floor import measured_floors

    names = {point: runner.job(point, num_steps).name for point in points}
    runs = {name: (job_overrides(runner.job(point, num_steps)), point.shape) for point, name in names.items()}
    rates, floors = measured_floors(runs, runner.folder / MODEL_FOLDER)
    return rates, {point: floors[name] for point, name in names.items()}


def _made(folder: str, name: str) -> Path:
    path = Path(folder) / name
    path.mkdir()
    return path


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.py scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sweeps", nargs="*", choices=SWEEPS, default=list(SWEEPS))
    parser.add_argument("--anchor", choices=("none", "mono", "all_but_one"), default=BASE.anchor)
    parser.add_argument("--launch", choices=LAUNCHES, default="ray", help="workers on Ray, or all in one process")
    parser.add_argument("--steps", type=int, default=8, help="steps of each point of a sweep, warm-up included")
    parser.add_argument("--warm-up", type=int, default=3, help="number of first steps that are not counted")
    parser.add_argument("--long-steps", type=int, default=200, help="steps of the run that shows memory; 0: none")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds that a run may take")
    parser.add_argument("--picture", type=path_option, default=None, help="a PNG file")
    parser.add_argument("--quick", action="store_true", help="only test the benchmark: tiny sweeps and 40 steps")
    options = parser.parse_args(arguments)
    if options.quick:
        options.steps, options.warm_up, options.long_steps = 3, 1, FLAT_FROM - 1 + 2 * WINDOW
    if not 1 <= options.warm_up < options.steps:
        parser.error("needs 1 <= warm-up < steps")
    if 0 < options.long_steps < FLAT_FROM - 1 + 2 * WINDOW:
        parser.error(f"--long-steps: {FLAT_FROM - 1 + 2 * WINDOW} or more, or 0")
    return options


def sweep_points(base: Point, sweeps: Mapping[str, Sequence[int]]) -> dict[str, list[Point]]:
    """In each sweep one number varies, and the others are those of `base`."""
    return {name: [replace(base, **{name: value}) for value in values] for name, values in sweeps.items()}


@dataclass(frozen=True)
class Runner:
    """Runs points one after another, and appends failed runs to `failures`."""

    folder: Path
    launch: str
    timeout: float
    failures: list[dict[str, Any]]

    def run(self, point: Point, num_steps: int, warm_up: int) -> dict[str, Any]:
        """Run a point and report it. Returns {} if the run failed."""
        found = self._train(point, num_steps)
        return point_report(point, *found, warm_up) if found else {}

    def run_long(self, point: Point, num_steps: int, warm_up: int) -> dict[str, Any]:
        found = self._train(point, num_steps)
        return long_report(*found[:2], warm_up) if found else {}

    def job(self, point: Point, num_steps: int) -> Job:
        name = "_".join(f"{key}_{value}" for key, value in asdict(point).items()) + f"_steps_{num_steps}"
        special = (*LAUNCHES[self.launch], *point.overrides())
        rows = rows_file(*point.shape)
        return Job(name, special, self.folder, rows, self.folder / name, num_steps, self.timeout)

    def _train(self, point: Point, num_steps: int) -> tuple[Done, Memories, list[float]] | None:
        """The run, and after each step the memory of its processes and the driver's processor seconds so far."""
        job = self.job(point, num_steps)
        memories: list[dict[str, Memory]] = []
        driver: list[float] = []

        def look(_: int) -> None:
            seconds, memory = processor_seconds_of_child(), memory_of_child()
            if seconds is not None and memory:
                driver.append(seconds)
                memories.append(memory)

        try:
            done = run_job(job, look)
        except ContenderFailed as failure:
            self.failures.append({"run": job.name, "reason": str(failure)})
            say(str(failure))
            return None
        say(f"{job.name}: {median(intervals(done.ends, 1)):.3f} s per step")
        return done, memories, driver


def point_report(point: Point, done: Done, memories: Memories, driver: Sequence[float], warm_up: int) -> dict[str, Any]:
    """Of the steps after the warm-up: median times, the driver's mean processor time per step, and the median memory of
    each process. Of all steps: each process's peak memory.

    driver: the driver's processor seconds since its start, after each step.
    """
    seconds = median(intervals(done.ends, warm_up))
    names = dict.fromkeys(name for memory in memories for name in memory)
    later = {name: [memory[name].rss for memory in memories[warm_up:] if name in memory] for name in names}
    return {
        "seconds_per_step": seconds,
        "milliseconds_per_rollout": 1000 * seconds / (point.prompts * point.samples),
        "stages": stage_seconds(done.rows[warm_up:]),
        "driver_processor_seconds": fmean(intervals(driver, warm_up)),  # a mean, because the clock ticks every 10 ms
        "memory_mib": {name: median(values) for name, values in later.items() if values},
        "peak_memory_mib": {name: max(m[name].peak for m in memories if name in m) for name in names},
    }


def long_report(done: Done, memories: Memories, warm_up: int) -> dict[str, Any]:
    """Memory after each step, and its growth from step FLAT_FROM on, for processes that lived for the whole run."""
    names = [name for name in memories[0] if all(name in memory for memory in memories)]
    values = {
        kind: {name: [getattr(memory[name], kind) for memory in memories] for name in names} for kind in ("rss", "uss")
    }
    return {
        "num_steps": len(done.ends),
        "seconds_per_step": intervals(done.ends, warm_up),
        "memory_mib": values,
        "growth": {
            kind: {name: growth(series, FLAT_FROM) for name, series in of_kind.items()}
            for kind, of_kind in values.items()
        },
    }


def checks(sweeps: Mapping[str, Sequence[Mapping[str, Any]]], steps: Mapping[str, Any] | None) -> dict[str, Any]:
    """Check the driver's peak memory and time over samples and over image sizes, and how much the resident memory of
    driver, engines and trainers grows in the run of many steps.

    The driver never sees an image, so its time must not depend on the size of images.
    """
    found = {}
    samples, sides = (sweeps.get(name, []) for name in ("samples", "image_side"))
    for name, points in (("samples", samples), ("image_side", sides)):
        if len(points) > 1:
            peaks = [point["peak_memory_mib"]["driver"] for point in points]
            found[f"driver peak memory over {name}"] = check(max(peaks) / min(peaks), DRIVER_MEMORY_TARGET)
    if len(samples) > 1:
        first, *_, last = [point["stages"]["driver"] / point["samples"] for point in samples]
        found["driver seconds of a rollout over samples"] = check(last / first, DRIVER_SAMPLES_TARGET)
    if len(sides) > 1:
        seconds = [point["stages"]["driver"] for point in sides]
        found["driver seconds over image_side"] = check(max(seconds) / min(seconds), DRIVER_SECONDS_TARGET)
    if steps:
        grown = {name: value for name, value in steps["growth"]["rss"].items() if is_ours(name)}
        found |= {f"{name} rss growth": check(value, GROWTH_TARGET) for name, value in grown.items()}
    return found
