"""The cost of anchors: none, mono and all_but_one at equal numbers of rollouts.

    python scripts/bench.py anchors --picture bench_anchors.png > bench_anchors.json
    python scripts/bench.py anchors --sources 3 --rollouts 9 --response-tokens 64 --rounds 5

Every variant samples G rollouts per prompt. With K sources and m anchor samples per source, the multi view gets
G - m K of them; without anchors it gets all G. Every run is `python -m mars.main` on the workload of
`scripts/bench.py step`. docs/performance.md explains the figures. Exit code 1: a run failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean, median
from typing import Any

from scripts.bench.launch import LAUNCHES, make_workload, say
from scripts.bench.machine import busy_share, machine_facts
from scripts.bench.paths import path_option
from scripts.bench.process import ContenderFailed
from scripts.bench.summary import check, intervals, rounded, stage_seconds
from scripts.bench.training import Done, Job, job_overrides, run_job, step_settings
from scripts.bench.workload import IMAGE_SIZE, MODEL_FOLDER, SOURCES, rows_file

KINDS = ("none", "mono", "all_but_one")
PACKINGS = ("shared_prefix", "padded")
TIME_TARGET = 0.95  # mono / none at the same number of rollouts
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Variant:
    """sources: images per prompt. multi, anchors: rollouts of the multi view and of each anchor view.

    tokens: per response.
    """

    kind: str
    sources: int
    multi: int
    anchors: int
    tokens: int

    @property
    def name(self) -> str:
        rollouts = "+".join(map(str, [self.multi, *[self.anchors] * self.num_anchor_views]))
        return f"{self.kind}, {self.sources} sources, {rollouts} x {self.tokens} tokens"

    @property
    def num_anchor_views(self) -> int:
        return 0 if self.kind == "none" else self.sources

    def overrides(self) -> tuple[str, ...]:
        settings = step_settings()
        room = settings.data.max_prompt_tokens + self.tokens
        special = (
            f"anchor={self.kind}",
            f"rollout.samples_per_prompt={self.multi}",
            f"rollout.max_response_tokens={self.tokens}",
            f"rollout.max_model_len={max(room, settings.rollout.max_model_len)}",
        )
        return special if self.kind == "none" else (*special, f"anchor.samples_per_view={self.anchors}")


def main(arguments: Sequence[str]) -> int:
    options = parse_options(arguments)
    machine = machine_facts() | {"cpu_busy_at_start": busy_share()}
    everything = variants(options.sources, options.rollouts, options.anchor_samples, options.response_tokens)
    runs: dict[Variant, list[Done]] = {variant: [] for variant in everything}
    failures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="mars_bench_", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        num_prompts = options.steps * step_settings().data.prompts_per_step
        workload = make_workload(folder, num_prompts, [(n, IMAGE_SIZE) for n in sorted(set(options.sources))])
        for number in range(options.rounds):
            for place, variant in enumerate(everything):
                job = _job(variant, folder, folder / f"run_{number}_{place}", options)
                try:
                    runs[variant].append(run_job(job))
                except ContenderFailed as failure:
                    failures.append({"variant": variant.name, "round": number, "reason": str(failure)})
                    say(str(failure))
                else:
                    seconds = median(intervals(runs[variant][-1].ends, options.warm_up))
                    say(f"round {number + 1}: {variant.name}: {seconds:.3f} s per step")
        done = {variant: found for variant, found in runs.items() if found}
        rates, floors = _floors(done, folder, options)
    report = {
        "settings": vars(options) | {"picture": str(options.picture)},
        "workload": workload,
        "variants": {
            variant.name: variant_report(found, options.warm_up) | {"floor": floors[variant.name]}
            for variant, found in done.items()
        },
        "checks": checks(done, options.warm_up),
        "failures": failures,
        "machine": machine | rates | {"cpu_busy_at_end": busy_share()},
    }
    if options.picture is not None:
        from scripts.bench.anchors_picture import draw

        draw(report, options.picture)
    json.dump(rounded(report), sys.stdout, indent=2)
    print()
    return 1 if failures else 0


def parse_options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.py anchors", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sources", type=int, nargs="+", choices=range(2, len(SOURCES) + 1), default=[2, 3])
    parser.add_argument("--rollouts", type=int, default=8, help="rollouts of a prompt, all views together (G)")
    parser.add_argument("--anchor-samples", type=int, default=1, help="rollouts of each anchor view (m)")
    parser.add_argument("--response-tokens", type=int, nargs="+", default=[24, 128], help="tokens of every response")
    parser.add_argument("--packing", choices=PACKINGS, default=PACKINGS[0], help="actor.packing of all variants")
    parser.add_argument("--launch", choices=LAUNCHES, default="ray", help="workers on Ray, or all in one process")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each variant, in turns")
    parser.add_argument("--steps", type=int, default=12, help="steps of each run, warm-up included")
    parser.add_argument("--warm-up", type=int, default=3, help="number of first steps that are not counted")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds that a run may take")
    parser.add_argument("--picture", type=path_option, default=None, help="a PNG file")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or not 1 <= options.warm_up < options.steps:
        parser.error("needs 1 round or more, and 1 <= warm-up < steps")
    if options.rollouts - options.anchor_samples * max(options.sources) < 2 or options.anchor_samples < 1:
        parser.error("needs 1 anchor sample or more, and 2 multi rollouts or more beside the anchors")
    if min(options.response_tokens) < 1:
        parser.error("a response needs 1 token or more")
    return options


def variants(sources: Sequence[int], rollouts: int, anchor_samples: int, tokens: Sequence[int]) -> list[Variant]:
    """Every kind of anchor for every number of sources and every length, each with `rollouts` rollouts per prompt."""
    found = []
    for number, length, kind in product(dict.fromkeys(sources), dict.fromkeys(tokens), KINDS):
        anchors = 0 if kind == "none" else anchor_samples
        found.append(Variant(kind, number, rollouts - anchors * number, anchors, length))
    return found


def _job(variant: Variant, folder: Path, run_dir: Path, options: argparse.Namespace) -> Job:
    special = (*LAUNCHES[options.launch], *variant.overrides(), f"actor.packing={options.packing}")
    return Job(
        variant.name, special, folder, rows_file(variant.sources), run_dir, options.steps, options.timeout
    )  # fmt: skip


def _floors(
    variants: Iterable[Variant], folder: Path, options: argparse.Namespace
) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """This machine's speed, and the floors of each variant's stages.

    Called after all runs, because floors need torch and this process must stay small while others are timed.
    """
    from scripts.bench.step_floor import measured_floors

    runs = {
        variant.name: (job_overrides(_job(variant, folder, folder, options)), (variant.sources, IMAGE_SIZE))
        for variant in variants
    }
    return measured_floors(runs, folder / MODEL_FOLDER)


def variant_report(runs: Sequence[Done], warm_up: int) -> dict[str, Any]:
    """Median times over all steps after the warm-up, and the mean work of the engine per step."""
    rows = [row for run in runs for row in run.rows[warm_up:]]
    return {
        "seconds_per_step": median(seconds for run in runs for seconds in intervals(run.ends, warm_up)),
        "seconds_per_step_of_each_run": [median(intervals(run.ends, warm_up)) for run in runs],
        "stages": stage_seconds(rows),
        "engine": engine_work(rows),
    }


def engine_work(rows: Rows) -> dict[str, float]:
    """The engine's work per step: tokens, distinct images, and images that passed the vision encoder (encoder_runs).

    prompt_tokens: of all rollouts, including image tokens. computed_prompt_tokens: those not found in a cache.
    Example: 100 prompt and 20 response tokens, hit rate 0.75 -> computed: 25 prompt tokens, 45 with the response.
    """
    response = fmean(row["rollout/tokens"] for row in rows)
    prompts = [row["perf/throughput"] * row["timing_s/step"] - row["rollout/tokens"] for row in rows]
    missed = [tokens * (1 - row["rollout/prefix_cache_hit_rate"]) for tokens, row in zip(prompts, rows, strict=True)]
    return {
        "response_tokens": response,
        "prompt_tokens": fmean(prompts),
        "computed_prompt_tokens": fmean(missed),
        "computed_tokens": fmean(missed) + response,
        "distinct_images": fmean(row["rollout/distinct_images"] for row in rows),
        "encoder_runs": fmean(row["rollout/encoder_runs"] for row in rows),
    }


def checks(runs: Mapping[Variant, Sequence[Done]], warm_up: int) -> dict[str, Any]:
    """Time with anchors / time without, and encoder runs / distinct images, for the variants that ran."""
    found = {}
    reports = {variant: variant_report(done, warm_up) for variant, done in runs.items()}
    for variant, report in reports.items():
        engine = report["engine"]
        share = engine["encoder_runs"] / engine["distinct_images"]
        found[f"{variant.name}: encoder runs of an image"] = check(share, 1.0)
        rollouts = variant.multi + variant.anchors * variant.num_anchor_views
        without = replace(variant, kind="none", multi=rollouts, anchors=0)
        if variant.kind != "none" and without in reports:
            seconds = report["seconds_per_step"] / reports[without]["seconds_per_step"]
            found[f"{variant.name} / none"] = check(seconds, TIME_TARGET)
    return found
