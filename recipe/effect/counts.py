"""Count the rollouts that a run has generated for each prompt: the methods are compared at equal cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from mars.answers.files import read_answers
from mars.answers.record import Answer
from mars.errors import DataError
from mars.tracking.jsonl import METRICS_FILE, read_metrics
from mars.tracking.rollouts import ROLLOUTS_FOLDER

# A sampler's probes are generated beside the rollouts and trained on by nobody.
_PROBES = "timing_s/probe"


@dataclass(frozen=True)
class RolloutCount:
    """per_step: step -> for each prompt sampled in it, how many rollouts were generated (multi, anchors and extra
    requests).

    prompts_sampled: over the whole run; more than steps x prompts_per_step with dynamic sampling. probes: number of
    steps in which a sampler has generated rollouts that are in no file.
    """

    per_step: Mapping[int, Sequence[int]]
    prompts_sampled: int
    probes: int

    @property
    def per_prompt(self) -> float | None:
        """Mean number of rollouts per sampled prompt; None if none were written."""
        counts = [count for step in self.per_step.values() for count in step]
        return fmean(counts) if counts else None

    def problem(self, budget: int, *, uneven: bool) -> str | None:
        """Why the run is not one of `budget` rollouts per prompt; None if it is.

        uneven: the prompts of a step may have different numbers, if their mean is the budget.
        """
        if not self.per_step:
            return "rollouts per prompt: none were written, so they cannot be counted; set tracking.rollouts_every"
        if self.probes:
            return f"rollouts per prompt: a sampler has added probes in {self.probes} steps; want {budget} and no more"
        for step, counts in self.per_step.items():
            got = {fmean(counts)} if uneven else set(counts)
            if got != {budget}:
                shown = ", ".join(f"{count:g}" for count in sorted(got))
                return f"rollouts per prompt, anchors included: want {budget}; got {shown} in step {step}"
        return None


def count_rollouts(run_dir: Path) -> RolloutCount:
    """Count in the run's rollouts/step_*.jsonl, which have all rollouts of some steps, and in its metrics.jsonl.

    Raises DataError for a file that cannot be read or has bad lines.
    """
    files = sorted((run_dir / ROLLOUTS_FOLDER).glob("step_*.jsonl"))
    per_step = {int(file.stem.removeprefix("step_")): per_prompt(read_answers(file).checked()) for file in files}
    try:
        rows = read_metrics(run_dir / METRICS_FILE).rows
    except OSError as error:
        raise DataError(f"{run_dir / METRICS_FILE}: cannot be read ({error.strerror})") from error
    sampled = sum(int(row.get("mars/prompts_sampled", 0)) for row in rows)
    return RolloutCount({step: counts for step, counts in per_step.items() if counts}, sampled, _probed_steps(rows))


def per_prompt(answers: Sequence[Answer]) -> list[int]:
    """Number of answers to each prompt. Answers to a view and to a recipe's extra requests count alike.

    Example: 8 multi rollouts and an anchor for each of two sources are 10.
    """
    return list(Counter(answer.prompt_id for answer in answers).values())


def _probed_steps(rows: Iterable[Mapping[str, Any]]) -> int:
    return sum(row.get(_PROBES, 0) > 0 for row in rows)
