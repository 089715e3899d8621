"""Count the rollouts that a run has generated for each prompt, so that methods are compared at equal cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from mars.answers.files import read_answers
from mars.answers.record import Answer
from mars.errors import DataError
from mars.tracking.jsonl import METRICS_FILE, read_metrics
from mars.tracking.rollouts import ROLLOUTS_FOLDER

RESPONSES, PROMPTS = "rollout/responses", "mars/prompts_sampled"
_PROBES = "timing_s/probe"
_WHAT = "rollouts per prompt, anchors included"


@dataclass(frozen=True)
class Wanted:
    """What a run must have generated.

    budget: rollouts per sampled prompt: multi, anchors and extra requests. uneven: whether the prompts of a step may
    have different numbers whose mean is the budget. steps: of the run.
    every, prompts: the run's tracking.rollouts_every and tracking.rollout_prompts.
    """

    budget: int
    uneven: bool
    steps: int
    every: int
    prompts: int

    def written_steps(self) -> list[int]:
        return [step for step in range(1, self.steps + 1) if self.every and (step == 1 or step % self.every == 0)]


@dataclass(frozen=True)
class RolloutCount:
    """generated: step -> rollouts of the step (None if metrics.jsonl lacks the number), and prompts sampled for the
    step.

    written: step -> number of rollouts of each prompt in the step's file. probes: number of steps with probes,
    whose rollouts are neither in `generated` nor in `written`.
    """

    generated: Mapping[int, tuple[int | None, int]]
    written: Mapping[int, Sequence[int]]
    probes: int

    @property
    def per_prompt(self) -> float | None:
        """Mean number of rollouts per sampled prompt over the run; None if no prompt was counted."""
        prompts = sum(sampled for _, sampled in self.generated.values())
        return sum(rollouts or 0 for rollouts, _ in self.generated.values()) / prompts if prompts else None

    def problem(self, wanted: Wanted) -> str | None:
        """Why the run did not generate `wanted.budget` rollouts per prompt; None if it did.

        The number must be right in every step and, unless `wanted.uneven`, for each prompt whose rollouts were written.
        """
        if self.probes:
            return f"{_WHAT}: a sampler has added probes in {self.probes} steps; want {wanted.budget} and no more"
        if not wanted.written_steps():
            return f"{_WHAT}: none were written, so those of a prompt cannot be counted; set tracking.rollouts_every"
        of_steps = (self._of_step(step, wanted) for step in range(1, wanted.steps + 1))
        of_files = (self._of_file(step, wanted) for step in wanted.written_steps())
        return next((problem for problem in chain(of_steps, of_files) if problem is not None), None)

    def _of_step(self, step: int, wanted: Wanted) -> str | None:
        rollouts, prompts = self.generated.get(step, (None, 0))
        if rollouts is None:
            return f"{_WHAT}: {METRICS_FILE} has no {RESPONSES} of step {step}; want that of every step"
        if rollouts != wanted.budget * prompts:
            return f"{_WHAT}: want {wanted.budget}; got {rollouts} for {prompts} prompts in step {step}"
        return None

    def _of_file(self, step: int, wanted: Wanted) -> str | None:
        counts, (rollouts, sampled) = self.written.get(step, ()), self.generated[step]
        prompts = min(wanted.prompts, sampled)
        if len(counts) != prompts:
            return f"{_WHAT}: want those of {prompts} prompts in the file of step {step}; got {len(counts)}"
        if not wanted.uneven and set(counts) - {wanted.budget}:
            shown = ", ".join(map(str, sorted(set(counts))))
            return f"{_WHAT}: want {wanted.budget}; got {shown} in the file of step {step}"
        if prompts == sampled and sum(counts) != rollouts:
            return f"{_WHAT}: want {rollouts} rollouts in the file of step {step}; got {sum(counts)}"
        return None


def count_rollouts(run_dir: Path) -> RolloutCount:
    """The rollouts of a run, counted from two kinds of files: metrics.jsonl has the numbers of all steps, and
    rollouts/step_*.jsonl have the rollouts of some prompts of some steps.

    Raises DataError for a file that cannot be read, and for bad lines in a file of rollouts.
    """
    files = sorted((run_dir / ROLLOUTS_FOLDER).glob("step_*.jsonl"))
    written = {int(file.stem.removeprefix("step_")): per_prompt(read_answers(file).checked()) for file in files}
    try:
        rows = [row for row in read_metrics(run_dir / METRICS_FILE).rows if row["step"] > 0]
    except OSError as error:
        raise DataError(f"{run_dir / METRICS_FILE}: cannot be read ({error.strerror})") from error
    generated = {row["step"]: _generated(row) for row in rows}
    return RolloutCount(generated, written, sum(row.get(_PROBES, 0) > 0 for row in rows))


def per_prompt(answers: Sequence[Answer]) -> list[int]:
    """Number of answers to each prompt, including those to views and to a recipe's extra requests.

    Example: 8 multi rollouts and an anchor for each of two sources are 10.
    """
    return list(Counter(answer.prompt_id for answer in answers).values())


def _generated(row: Mapping[str, Any]) -> tuple[int | None, int]:
    rollouts, prompts = row.get(RESPONSES), int(row.get(PROMPTS) or 0)
    if row.get(PROMPTS) == 0:  # with dynamic sampling, prompts that the step before has kept can be enough
        rollouts = 0
    return (None if rollouts is None else int(rollouts)), prompts
