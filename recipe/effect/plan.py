"""The runs of a study, their settings, and their order."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mars.config.folders import quoted
from recipe.effect.study import Study

DATA_FOLDER = "data"
COLD_STARTS_FOLDER = "cold_starts"
RUNS_FOLDER = "runs"


@dataclass(frozen=True)
class ColdStart:
    """A policy with which runs start. number: counted from 1."""

    dial: float
    number: int

    @property
    def name(self) -> str:
        return f"{COLD_STARTS_FOLDER}/{self.dial:g}/{self.number}"


@dataclass(frozen=True)
class StudyRun:
    """One training run.

    dial: the probability that the teacher of its cold start answers what the visible image shows, for a row that shows
    both images.

    Runs of one dial and one seed are a pair: cold start, order of the prompts and sampling seeds are the same.
    """

    dial: float
    arm: str
    seed: int
    start: ColdStart

    @property
    def name(self) -> str:
        """Its folder in the study's: runs/0.5/mars_grpo/3."""
        return f"{RUNS_FOLDER}/{self.dial:g}/{self.arm}/{self.seed}"


def planned_runs(
    study: Study, arms: Sequence[str], dials: Sequence[float], seeds: Collection[int] = ()
) -> list[StudyRun]:
    """The runs of these arms and dials, in the order in which they start.

    seeds: the study's seeds to run; empty for all. All arms of a seed come before the next seed's, so that a study that
    is stopped early has complete pairs of every dial. An arm without runs of its own (`same_as`) is left out.

    Seed s starts from cold start 1 + s % study.cold_starts.
    """
    own = [arm for arm in arms if study.arms[arm].same_as is None]
    by_dial = {dial: [s for s in study.seeds_of(dial) if not seeds or s in seeds] for dial in dials}
    all_seeds = sorted({seed for found in by_dial.values() for seed in found})
    return [
        StudyRun(dial, arm, seed, ColdStart(dial, 1 + seed % study.cold_starts))
        for seed in all_seeds
        for dial in dials
        if seed in by_dial[dial]
        for arm in own
    ]


def cold_starts_of(runs: Sequence[StudyRun]) -> list[ColdStart]:
    """The cold starts that the runs need, in their order."""
    return list(dict.fromkeys(run.start for run in runs))


def settings_of_arm(study: Study, arm: str) -> list[str]:
    """The overrides that all runs of an arm share."""
    steps = [f"run.num_steps={study.steps}", f"evaluation.every={study.steps}"]
    return [f"experiment={study.experiment}", *steps, *study.overrides, *study.arms[arm].overrides]


def overrides_of(study: Study, run: StudyRun, out: Path, policy: Path) -> list[str]:
    """The overrides of a run that is in the study's folder `out` and starts with the model in the folder `policy`."""
    data = out / DATA_FOLDER
    return [
        *settings_of_arm(study, run.arm),
        f"run.seed={run.seed}",
        f"run.dir={quoted(str(out / run.name))}",
        f"model.path={quoted(str(policy))}",
        f"data.train_files=[{quoted(str(data / 'train.parquet'))}]",
        f"data.eval_files=[{quoted(str(data / 'test.parquet'))}]",
    ]


def estimated_seconds(
    study: Study, runs: Sequence[StudyRun], stages: int, jobs: int, timed: Mapping[str, float]
) -> float:
    """Wall time of the remaining runs and stages on `jobs` cores. timed: arm -> seconds of a run."""
    work = sum(timed.get(run.arm, study.seconds_per_run) for run in runs)
    return (work + study.seconds_per_stage * stages) / jobs
