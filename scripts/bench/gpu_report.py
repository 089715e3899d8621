"""Compute the figures of scripts/bench.py gpu from the metrics of its runs.

    python -m scripts.bench.gpu_report bench_gpu.json

prints the figures of the file: one line for each combination of case, variant and packing, for each check, and for each
run that failed or was left out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from mars.config.schema import TrainConfig
from mars.data.prompts.budget import ImageBudget, model_image_size
from scripts.bench.gpu_work import Flops, Group, group_flops, mfu, num_parameters
from scripts.bench.gpu_workload import Case
from scripts.bench.summary import stage_seconds

MFU_TARGET = 0.45
SPEED_UP_TARGET = 3.0
SPEED_UP_CASE = "two_1280x1024"  # the groups of two_640x480 have shorter prompts, those of six_1600x900 longer ones
PACKINGS = ("shared_prefix", "padded")
CHECKED_VARIANTS = ("checkpointing", "no_checkpointing")  # lora does less work, the other variants have too few tokens
MEMORY = "perf/max_memory_allocated_gb"
_WEIGHT_BYTES = {"bfloat16": 2, "float32": 4}
Rows = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Step:
    """The work of one step. sampled: response tokens. needed: response tokens, and the tokens of each prompt once."""

    groups: tuple[Group, ...]
    parts: Mapping[str, Flops]

    @property
    def sampled(self) -> int:
        return sum(sum(group.responses) for group in self.groups)

    @property
    def needed(self) -> int:
        return sum(group.tokens for group in self.groups)

    @property
    def flops(self) -> Flops:
        return sum(self.parts.values(), Flops(0.0, 0.0))


class NotTheWork(Exception):
    """The run did other work than the FLOPs are counted for."""


def step_of(case: Case, config: TrainConfig, model: Any, rows: Rows) -> Step:
    """Derive the work from the settings, the model's configuration and the lengths in metrics.jsonl.

    Raises NotTheWork if prompts differ in length or a response does not have `rollout.max_response_tokens` tokens.
    """
    response = config.rollout.max_response_tokens
    lengths = {row[f"response_length/{kind}"] for row in rows for kind in ("min", "max")}
    prompts = {row["prompt_length/mean"] for row in rows}
    if lengths != {response} or len(prompts) != 1 or not min(prompts).is_integer():
        raise NotTheWork(
            f"{case.name}: all responses must have {response} tokens and all prompts the same number; "
            f"got responses of {sorted(lengths)} and prompts of {sorted(prompts)}"
        )
    group = group_of(case, config, model, int(min(prompts)))
    groups = (group,) * config.data.prompts_per_step
    return Step(groups, group_flops(model, groups, config.actor.lora.rank))


def group_of(case: Case, config: TrainConfig, model: Any, prompt: int) -> Group:
    """A prompt of `prompt` tokens with its responses and images."""
    return Group(
        prompt=prompt,
        responses=(config.rollout.max_response_tokens,) * config.rollout.samples_per_prompt,
        grids=(image_grid(case, config, model),) * case.num_images,
    )


def image_grid(case: Case, config: TrainConfig, model: Any) -> tuple[int, int]:
    """(height, width) in patches, after resizing. Example: 1280x1024 and at most 1003520 pixels -> (64, 80)."""
    vision, data = model.vision_config, config.data
    budget = ImageBudget(data.min_image_pixels, data.max_image_pixels, vision.patch_size, vision.spatial_merge_size)
    width, height = model_image_size((case.width, case.height), budget)
    return height // vision.patch_size, width // vision.patch_size


def run_report(step: Step, config: TrainConfig, model: Any, rows: Rows, peak: float | None) -> dict[str, Any]:
    """The figures of one run. rows: without warm-up. peak: TFLOP/s of one GPU, or None to report no MFU.

    The scripted engine has no model. With it, the report leaves out generation, weight transfer, the whole step, and
    how far the log-probs of engine and trainer differ.
    """
    seconds = stage_seconds(rows)
    scripted = config.rollout.is_scripted
    if scripted:
        del seconds["gen"], seconds["sync_weights"]
    if config.cluster.placement == "colocated":
        seconds["turns"] = median(row["timing_s/turns"] for row in rows)
    # The first update needs no pass for old log-probs, because the policy has not changed yet.
    later = 1 - config.actor.prompts_per_update / config.data.prompts_per_step
    tokens = {"gen": step.sampled, "old_log_prob": step.needed * later, "update_actor": step.needed}
    report: dict[str, Any] = {
        "seconds": seconds if scripted else seconds | {"step": median(row["timing_s/step"] for row in rows)},
        "tokens_per_second": {stage: tokens[stage] / seconds[stage] for stage in tokens if seconds.get(stage)},
    }
    if not scripted:
        report["step_tokens_per_second"] = median(row["perf/throughput"] for row in rows)
        report["logprob_diff_max"] = max(row["rollout/logprob_diff_max"] for row in rows)
    if seconds.get("sync_weights"):
        published = num_parameters(model) * _WEIGHT_BYTES[config.model.dtype]
        report["sync_gigabytes_per_second"] = published / 1e9 / seconds["sync_weights"]
    if all(MEMORY in row for row in rows):
        report["peak_memory_gib"] = max(row[MEMORY] for row in rows)
    if peak is not None:
        flops, gpus = step.flops, config.actor.num_workers
        report["update_mfu"] = mfu(flops.total, seconds["update_actor"], peak, gpus)
        if seconds["old_log_prob"]:
            report["old_log_prob_mfu"] = mfu(flops.forward * later, seconds["old_log_prob"], peak, gpus)
    return report


def work_report(step: Step) -> dict[str, Any]:
    """The numbers of tokens and FLOPs behind the figures of a variant."""
    (group, *_) = step.groups
    return {
        "prompts": len(step.groups),
        "prompt_tokens": group.prompt,
        "responses": len(group.responses),
        "response_tokens": group.responses[0],
        "image_patches": [list(grid) for grid in group.grids],
        "needed_tokens_per_step": step.needed,
        "teraflops_per_step": {
            name: {"forward": part.forward / 1e12, "backward": part.backward / 1e12}
            for name, part in step.parts.items()
        },
    }


def variant_report(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """All runs of a variant, by packing, and the speed-up of shared prefixes: in each round of the benchmark (one run
    of each packing), and the median."""
    report: dict[str, Any] = {"packings": {packing: list(found) for packing, found in runs.items()}}
    report["padded/shared_prefix"] = {
        stage: {"value": median(ratios), "of_each_round": ratios}
        for stage in ("old_log_prob", "update_actor", "step")
        if (ratios := _ratios(runs, stage))
    }
    return report


def _ratios(runs: Mapping[str, Sequence[Mapping[str, Any]]], stage: str) -> list[float]:
    """Seconds of `stage` with padded rows / with packs, in each round. Only runs of one round are compared, because
    they follow each other directly."""
    padded = {run["round"]: run["seconds"].get(stage) for run in runs.get("padded", ())}
    packs = {run["round"]: run["seconds"].get(stage) for run in runs.get("shared_prefix", ())}
    return [padded[number] / seconds for number, seconds in packs.items() if padded.get(number) and seconds]


def checks(cases: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Name of a check -> its value, its target, and whether the target is met. cases: case -> variant -> its report.

    Only CHECKED_VARIANTS are checked: in each case the update's MFU with packs, and in SPEED_UP_CASE also the speed-up
    by packs. A value that was not measured is not checked.
    """
    found = {}
    for case, variants in cases.items():
        for variant in [name for name in variants if name in CHECKED_VARIANTS]:
            report = variants[variant]
            values = [run["update_mfu"] for run in report["packings"].get("shared_prefix", ()) if "update_mfu" in run]
            if values:
                found[f"{case} {variant} update_mfu"] = _at_least(median(values), MFU_TARGET)
            if case == SPEED_UP_CASE and "update_actor" in report["padded/shared_prefix"]:
                speed_up = report["padded/shared_prefix"]["update_actor"]["value"]
                found[f"{case} {variant} padded/shared_prefix"] = _at_least(speed_up, SPEED_UP_TARGET)
    return found


def _at_least(value: float, target: float) -> dict[str, Any]:
    return {"value": value, "at_least": target, "met": value >= target}


def summary_lines(report: Mapping[str, Any]) -> list[str]:
    """Lines for a whole report. The line of a variant and packing has medians over its runs, and the largest memory."""
    lines = []
    for case, variants in report["cases"].items():
        for variant, found in variants.items():
            lines += [
                f"{case} {variant} {packing}: {_summary(runs)}" for packing, runs in found["packings"].items() if runs
            ]
    for name, check in report["checks"].items():
        met = "met" if check["met"] else "missed"
        lines.append(f"{name}: {check['value']:.3g}, target {check['at_least']:g} {met}")
    lines += [f"left out: {run['run']}: {run['reason']}" for run in report["skipped"]]
    lines += [f"failed: {run['run']}: {run['reason'].splitlines()[-1]}" for run in report["failures"]]
    return lines


def _summary(runs: Sequence[Mapping[str, Any]]) -> str:
    parts = [f"update {median(run['seconds']['update_actor'] for run in runs):.2f} s"]
    if all("update_mfu" in run for run in runs):
        parts.append(f"MFU {100 * median(run['update_mfu'] for run in runs):.1f} %")
    if all("peak_memory_gib" in run for run in runs):
        parts.append(f"peak memory {max(run['peak_memory_gib'] for run in runs):.1f} GiB")
    if all("logprob_diff_max" in run for run in runs):
        parts.append(f"engine and trainer differ by up to {max(run['logprob_diff_max'] for run in runs):.2g} nats")
    return ", ".join(parts)


if __name__ == "__main__":
    print("\n".join(summary_lines(json.loads(Path(sys.argv[1]).read_text()))))
