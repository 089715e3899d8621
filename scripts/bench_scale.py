"""Time and memory of a step over the number of samples, prompts and sources, and over many steps.

    python scripts/bench_scale.py --picture bench_scale.png > bench_scale.json
    python scripts/bench_scale.py --sweeps samples --long-steps 0
    python scripts/bench_scale.py --quick > /dev/null

Every point is a run of its own of `python -m mars.main`, on the workload of scripts/bench_step.py. One JSON object goes
to stdout, progress to stderr. docs/performance.md explains the figures. Exit code 1: some run failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from bench.launch import LAUNCHES, make_workload, say
from bench.machine import busy_share, machine_facts
from bench.memory import WINDOW, Memory, growth, is_ours, memory_of_child
from bench.process import ContenderFailed
from bench.summary import check, intervals, rounded, stage_seconds
from bench.training import Done, Job, run_job
from bench.workload import rows_file

GROWTH_TARGET = 0.02
FLAT_FROM = 20  # step


@dataclass(frozen=True)
class Point:
    """samples: rollouts of a prompt. prompts: of a step. sources: images of a prompt."""

    samples: int
    prompts: int
    sources: int

    def overrides(self) -> tuple[str, ...]:
        return (
            f"rollout.samples_per_prompt={self.samples}",
            f"data.prompts_per_step={self.prompts}",
            f"actor.prompts_per_update={self.prompts}",
        )


BASE = Point(samples=8, prompts=16, sources=2)
SWEEPS = {"samples": (4, 8, 16), "prompts": (8, 16, 32), "sources": (1, 2, 4)}
QUICK = {"samples": (2, 4), "prompts": (2, 4), "sources": (1, 2)}
Memories = Sequence[Mapping[str, Memory]]


def main() -> int:
    options = parse_options()
    base = replace(BASE, samples=2, prompts=2) if options.quick else BASE
    points = sweep_points(base, {name: (QUICK if options.quick else SWEEPS)[name] for name in options.sweeps})
    machine = machine_facts() | {"cpu_busy_at_start": busy_share()}
    settings = vars(options) | {"picture": str(options.picture), "base": asdict(base)}
    report: dict[str, Any] = {"settings": settings, "failures": []}
    with tempfile.TemporaryDirectory(prefix="mars_bench_", ignore_cleanup_errors=True) as folder:
        runner = Runner(Path(folder), options.launch, options.timeout, report["failures"])
        distinct = dict.fromkeys(point for sweep in points.values() for point in sweep)
        num_rows = max([base.prompts * options.long_steps, *(p.prompts * options.steps for p in distinct)])
        sources = sorted({base.sources, *(point.sources for point in distinct)})
        report["workload"] = make_workload(Path(folder), num_rows, sources)
        found = {point: runner.run(point, options.steps, options.warm_up) for point in distinct}
        if options.long_steps:
            report["steps"] = runner.run_long(base, options.long_steps, options.warm_up)
    report["sweeps"] = {
        name: [{name: getattr(point, name)} | found[point] for point in sweep if found[point]]
        for name, sweep in points.items()
    }
    report["checks"] = checks(report.get("steps"))
    report["machine"] = machine | {"cpu_busy_at_end": busy_share()}
    if options.picture is not None:
        from bench.scale_picture import draw

        draw(report, options.picture)
    json.dump(rounded(report), sys.stdout, indent=2)
    print()
    return 1 if report["failures"] else 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", nargs="*", choices=SWEEPS, default=list(SWEEPS))
    parser.add_argument("--launch", choices=LAUNCHES, default="ray", help="workers on Ray, or all in one process")
    parser.add_argument("--steps", type=int, default=8, help="steps of each point of a sweep, warm-up included")
    parser.add_argument("--warm-up", type=int, default=3, help="first steps whose time does not count")
    parser.add_argument("--long-steps", type=int, default=200, help="steps of the run that shows memory; 0: none")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds that a run may take")
    parser.add_argument("--picture", type=Path, default=None, help="a PNG file")
    parser.add_argument("--quick", action="store_true", help="tiny sweeps and 40 steps: shows that it works, no more")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.warm_up, options.long_steps = 3, 1, FLAT_FROM - 1 + 2 * WINDOW
    if not 1 <= options.warm_up < options.steps:
        parser.error("needs 1 <= warm-up < steps")
    if 0 < options.long_steps < FLAT_FROM - 1 + 2 * WINDOW:
        parser.error(f"--long-steps: {FLAT_FROM - 1 + 2 * WINDOW} or more, or 0")
    return options


def sweep_points(base: Point, sweeps: Mapping[str, Sequence[int]]) -> dict[str, list[Point]]:
    """One number varies in each sweep, the others are those of `base`."""
    return {name: [replace(base, **{name: value}) for value in values] for name, values in sweeps.items()}


@dataclass(frozen=True)
class Runner:
    """Runs points one after another. failures: where those that failed are noted."""

    folder: Path
    launch: str
    timeout: float
    failures: list[dict[str, Any]]

    def run(self, point: Point, num_steps: int, warm_up: int) -> dict[str, Any]:
        """Empty if it failed."""
        found = self._train(point, num_steps)
        return point_report(point, *found, warm_up) if found else {}

    def run_long(self, point: Point, num_steps: int, warm_up: int) -> dict[str, Any]:
        found = self._train(point, num_steps)
        return long_report(*found, warm_up) if found else {}

    def _train(self, point: Point, num_steps: int) -> tuple[Done, Memories] | None:
        name = f"samples_{point.samples}_prompts_{point.prompts}_sources_{point.sources}_steps_{num_steps}"
        special = (*LAUNCHES[self.launch], *point.overrides())
        rows = rows_file(point.sources)
        memories: list[dict[str, Memory]] = []
        job = Job(name, special, self.folder, rows, self.folder / name, num_steps, self.timeout)
        try:
            done = run_job(job, lambda _: memories.extend(filter(None, [memory_of_child()])))
        except ContenderFailed as failure:
            self.failures.append({"run": name, "reason": str(failure)})
            say(str(failure))
            return None
        say(f"{name}: {median(intervals(done.ends, 1)):.3f} s per step")
        return done, memories


def point_report(point: Point, done: Done, memories: Memories, warm_up: int) -> dict[str, Any]:
    """Medians over the steps after the warm-up; the highest memory of each process."""
    seconds = median(intervals(done.ends, warm_up))
    names = dict.fromkeys(name for memory in memories for name in memory)
    return {
        "seconds_per_step": seconds,
        "milliseconds_per_rollout": 1000 * seconds / (point.prompts * point.samples),
        "stages": stage_seconds(done.rows[warm_up:]),
        "peak_memory_mib": {name: max(m[name].peak for m in memories if name in m) for name in names},
    }


def long_report(done: Done, memories: Memories, warm_up: int) -> dict[str, Any]:
    """Memory after each step, and how much it grew after step FLAT_FROM; processes that did not live through are left
    out."""
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


def checks(steps: Mapping[str, Any] | None) -> dict[str, Any]:
    """Resident memory of every process of ours, over the long run."""
    if not steps:
        return {}
    found = {name: value for name, value in steps["growth"]["rss"].items() if is_ours(name)}
    return {f"{name} rss growth": check(value, GROWTH_TARGET) for name, value in found.items()}


if __name__ == "__main__":
    sys.exit(main())
