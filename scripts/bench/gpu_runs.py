"""The runs of scripts/bench.py gpu, one after the other, within a budget of time and of GPU memory."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mars.config.load import load_config
from mars.config.schema import TrainConfig
from scripts.bench.gpu_report import (
    NotTheWork,
    Step,
    group_of,
    image_grid,
    run_report,
    step_of,
    variant_report,
    work_report,
)
from scripts.bench.gpu_variants import VARIANTS, Variant, too_large
from scripts.bench.gpu_workload import Case
from scripts.bench.launch import say
from scripts.bench.process import ContenderFailed
from scripts.bench.summary import rounded
from scripts.bench.training import BENCH, Job, job_overrides, run_job
from scripts.bench.workload import MODEL_FOLDER

EXPERIMENT = "bench_gpu"
ROLLOUTS: dict[str, tuple[str, ...]] = {
    "vllm": (),
    "hf": ("rollout=hf", "rollout.max_num_seqs=32"),
    "scripted": ("rollout=scripted", "rollout.engine=scripted_full_length"),
}
# Tokens of a prompt without its images, for estimates of memory. A run counts its own.
TEXT_TOKENS = 100


@dataclass(frozen=True)
class Planned:
    """A run. number: of its round, counted from 0."""

    case: Case
    number: int
    variant: str
    packing: str

    @property
    def name(self) -> str:
        return f"{self.case.name}_{self.variant}_{self.packing}_{self.number}"


def planned_runs(
    cases: Sequence[Case], variants: Sequence[str], packings: Sequence[str], rounds: int
) -> Iterator[Planned]:
    """The runs, case by case. In each round, every variant runs with the first packing, and those with
    `Variant.compares` run with all other packings too. Every second round goes in reverse."""
    for case in cases:
        for number in range(rounds):
            round_of = [
                Planned(case, number, variant, packing)
                for variant in variants
                for packing in packings
                if packing == packings[0] or VARIANTS[variant].compares
            ]
            yield from round_of[:: -1 if number % 2 else 1]


@dataclass
class Budget:
    """Whether there is time for another run. seconds: from now on, or None for no limit.

    A run is expected to take as long as the longest run so far of its case, variant and packing. If there is none yet,
    as long as the longest of all runs.
    """

    seconds: float | None
    clock: Callable[[], float] = time.monotonic
    taken: dict[tuple[str, str, str], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._start = self.clock()

    def left(self) -> float:
        return float("inf") if self.seconds is None else self.seconds - (self.clock() - self._start)

    def refusal(self, run: Planned) -> str | None:
        """Why this run is not started. None if it may start."""
        expected, left = self.taken.get(_kind(run), max(self.taken.values(), default=0.0)), self.left()
        if expected < left:
            return None
        return f"not enough time: it takes about {expected:.0f} s, and {max(left, 0.0):.0f} s are left"

    def took(self, run: Planned, seconds: float) -> None:
        self.taken[_kind(run)] = max(seconds, self.taken.get(_kind(run), 0.0))


def _kind(run: Planned) -> tuple[str, str, str]:
    return run.case.name, run.variant, run.packing


@dataclass(frozen=True)
class Runner:
    """peak: TFLOP/s of one GPU, or None to report no MFU. memory_gib: of one GPU; runs that do not fit into it
    are left out. None: no limit.

    changed: called after each run. failures, skipped: runs that failed and runs that were left out, with the reasons.
    """

    folder: Path
    options: argparse.Namespace
    peak: float | None
    memory_gib: float | None
    budget: Budget
    changed: Callable[[], None] = lambda: None
    found: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    failures: list[dict[str, str]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)

    def run_all(self, planned: Sequence[Planned]) -> None:
        for run in planned:
            self._run(run)
            self.changed()

    def cases(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Case -> variant -> report of the runs so far."""
        return {
            case: {name: {"work": found["work"]} | variant_report(found["runs"]) for name, found in variants.items()}
            for case, variants in self.found.items()
        }

    def _run(self, run: Planned) -> None:
        config = self._config(run)
        reason = self.budget.refusal(run) or self._too_large(run, config)
        if reason is not None:
            self._leave_out(run, reason)
            return
        start = self.budget.clock()
        try:
            step, report = self._train(run, config)
        except (ContenderFailed, NotTheWork) as failure:
            if self.budget.left() <= 0:
                self._leave_out(run, f"ended after {self.budget.clock() - start:.0f} s: the time is used up")
                return
            self.failures.append({"run": run.name, "reason": str(failure)})
            say(f"{run.name}: {failure}")
            return
        self.budget.took(run, self.budget.clock() - start)
        variants = self.found.setdefault(run.case.name, {})
        found = variants.setdefault(run.variant, {"work": work_report(step), "runs": {}})
        found["runs"].setdefault(run.packing, []).append({"round": run.number} | report)
        say(f"{run.name}, {self.budget.clock() - start:.0f} s: {json.dumps(rounded(report))}")

    def _leave_out(self, run: Planned, reason: str) -> None:
        self.skipped.append({"run": run.name, "reason": reason})
        say(f"{run.name}: left out: {reason}")

    def _config(self, run: Planned) -> TrainConfig:
        return load_config("train", job_overrides(self._job(run, Path("none"))), [str(BENCH)])

    def _job(self, run: Planned, run_dir: Path) -> Job:
        options = self.options
        return Job(
            run.name,
            run_overrides(run.case, VARIANTS[run.variant], run.packing, options),
            self.folder,
            run.case.rows_file,
            run_dir,
            options.steps,
            min(options.timeout, max(self.budget.left(), 1.0)),
            EXPERIMENT,
            kill_after_last_step=options.launch == "local",
        )

    def _too_large(self, run: Planned, config: TrainConfig) -> str | None:
        if self.memory_gib is None:
            return None
        model = _model(self.folder)
        height, width = image_grid(run.case, config, model)
        image = height * width // model.vision_config.spatial_merge_size**2
        group = group_of(run.case, config, model, run.case.num_images * image + TEXT_TOKENS)
        return too_large(config, group, self.memory_gib)

    def _train(self, run: Planned, config: TrainConfig) -> tuple[Step, dict[str, Any]]:
        run_dir = Path(tempfile.mkdtemp(prefix=f"{run.name}_", dir=self.folder)) / "run"
        rows, model = run_job(self._job(run, run_dir)).rows, _model(self.folder)
        step = step_of(run.case, config, model, rows)
        return step, run_report(step, config, model, rows[self.options.warm_up :], self.peak)


def _model(folder: Path) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder / MODEL_FOLDER)


def run_overrides(case: Case, variant: Variant, packing: str, options: argparse.Namespace) -> tuple[str, ...]:
    """The overrides of one run. A step has two updates: without a second one, no old log-probs would be computed
    and timed."""
    config = load_config("train", [f"experiment={EXPERIMENT}", "data.train_files=[none]"], [str(BENCH)])
    prompts = min(options.prompts, variant.most_prompts or options.prompts)
    tokens = min(options.response_tokens, variant.most_response_tokens or options.response_tokens)
    return (
        f"cluster={options.launch}",
        *(("cluster.device=cpu", "model.dtype=float32") if options.smoke else ()),
        *ROLLOUTS[options.rollout],
        f"actor.packing={packing}",
        f"actor.num_workers={options.trainers}",
        f"data.max_image_pixels={case.max_pixels}",
        f"data.prompts_per_step={prompts}",
        f"actor.prompts_per_update={prompts // 2}",
        f"rollout.samples_per_prompt={options.samples}",
        f"rollout.max_response_tokens={tokens}",
        f"rollout.max_model_len={config.data.max_prompt_tokens + tokens}",
        *variant.overrides,
        *options.overrides,
    )
