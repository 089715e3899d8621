"""The evaluations of runs, paired by question with those of the first run: `mars runs diff` and `mars report A B`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from mars.answers.files import step_file, step_of
from mars.errors import DataError
from mars.evaluation.compare import compare
from mars.evaluation.files import read_results
from mars.evaluation.score import Scored, record_of
from mars.rewards.built_in import is_built_in
from mars.rewards.functions import RewardsBySet

ALL_SETS = "All data sources"
_LINES = 2  # shown lines of an error: what is wrong, and the first place


@dataclass(frozen=True)
class EvaluatedRun:
    """mark: what the run is called in texts, such as "A". folder: where its evaluations are. rewards: the rewards that
    scored them; None if the run's settings do not say."""

    mark: str
    folder: Path
    rewards: RewardsBySet | None


@dataclass(frozen=True)
class Pair:
    """A run's evaluation beside that of the first run.

    step: of both evaluations; None if both runs have evaluated no common step.
    how: which evaluations these are, or why they are not compared.
    comparisons: ALL_SETS, or the name of a data source -> `compare` of the two evaluations, the first run first. There
        are names only if the common questions come from several data sources. Empty if nothing can be compared.
    """

    first: str
    other: str
    step: int | None
    how: str
    comparisons: Mapping[str, Mapping[str, Any]]


def pair_runs(runs: Sequence[EvaluatedRun], threshold: float | None) -> list[Pair]:
    """Pairs of the first run with each of the others, compared at the last step that both runs have evaluated.

    The values come from the runs' own rewards. They are compared only if both runs used the same reward: the same
    built-in reward, or functions of the same name in files of the same name.

    threshold: mean IoU above which a multi answer is a hit (`prompt_values`).
    """
    first, *others = runs
    first_at = cache(lambda step: _scored(first, step))
    return [_pair(first, other, first_at, threshold) for other in others]


def _pair(first: EvaluatedRun, other: EvaluatedRun, first_at: Callable[[int], Scored], threshold: float | None) -> Pair:
    own, others = _steps(first.folder), _steps(other.folder)
    common = sorted(own & others)
    if not common:
        return Pair(first.mark, other.mark, None, _nothing_in_common(first, other, own, others), {})
    step = common[-1]
    try:
        files = [first_at(step), _scored(other, step)]
        _check_rewards(first, other, files)
        comparisons = _comparisons(files, threshold)
    except DataError as error:
        reason = " ".join(" ".join(str(error).splitlines()[:_LINES]).split())
        return Pair(first.mark, other.mark, step, f"not compared at step {step}: {reason}", {})
    last = ((first.mark, max(own)), (other.mark, max(others)))
    newer = [f"{mark} also has step {newest}" for mark, newest in last if newest > step]
    which = f"step {step}, the last that both have ({', '.join(newer)})" if newer else f"step {step} of both"
    whole = comparisons[ALL_SETS]
    left_out = [
        f"{file['left_out']} of {run.mark}'s {file['n']} are left out"
        for run, file in zip((first, other), whole["files"], strict=True)
        if file["left_out"]
    ]
    how = f"{which}; {whole['n']} questions in both{''.join(f', {text}' for text in left_out)}"
    return Pair(first.mark, other.mark, step, how, comparisons)


def _steps(folder: Path) -> set[int]:
    """The steps whose answers to the held-out questions are kept."""
    return {step for path in folder.glob("step_*.jsonl") if (step := step_of(path)) is not None}


def _nothing_in_common(first: EvaluatedRun, other: EvaluatedRun, own: set[int], others: set[int]) -> str:
    without = [run.mark for run, steps in ((first, own), (other, others)) if not steps]
    if without:
        who = f"{' and '.join(without)} {'have' if len(without) > 1 else 'has'}"
        return f"not compared: {who} no answers of an evaluation (evaluation/step_*.jsonl)"
    shown = [f"{run.mark} has {_some(steps)}" for run, steps in ((first, own), (other, others))]
    return (
        f"not compared: no step is evaluated in both; {' and '.join(shown)}; mars eval compare takes any two of the "
        f"files evaluation/step_*.jsonl"
    )


def _some(steps: set[int]) -> str:
    shown = sorted(steps)
    return f"steps {', '.join(map(str, shown if len(shown) <= 6 else [*shown[:3], '…', *shown[-2:]]))}"


def _scored(run: EvaluatedRun, step: int) -> Scored:
    """The answers of a step with the rewards that the run gave them. Raises DataError."""
    path = step_file(run.folder, step)
    if run.rewards is None:
        raise DataError(f"{run.folder.parent}: config.yaml does not say which reward scored the answers; restore it")
    results = read_results(path)
    for answer in results.answers:
        if answer.reward is None or not 0 <= answer.reward.accuracy <= 1:
            got = "no reward" if answer.reward is None else f"the accuracy {answer.reward.accuracy}"
            raise DataError(f"{path}: an answer to {answer.row} has no value in [0, 1]; got {got}; evaluate again")
        if not run.rewards.has(answer.data_source):
            raise DataError(
                f"{path}: no reward for the data source {answer.data_source!r}; got {run.rewards}; restore the "
                "config.yaml with which the run evaluated"
            )
    records = [record_of(answer, run.rewards.of(answer.data_source), with_compat=False) for answer in results.answers]
    return Scored(results, str(run.rewards), results.answers, records)


def _check_rewards(first: EvaluatedRun, other: EvaluatedRun, files: Sequence[Scored]) -> None:
    """Raises DataError if the two runs scored the questions of some data source with different rewards."""
    assert first.rewards is not None
    assert other.rewards is not None  # `_scored` has refused those
    for name in _common_sets(files):
        one, another = first.rewards.of(name), other.rewards.of(name)
        if _identity(one) != _identity(another):
            raise DataError(
                f"{name}: values of different rewards cannot be compared; got {one} in {first.mark} and {another} in "
                f"{other.mark}; mars eval compare --task scores the answers of both with one reward"
            )


def _identity(function: str) -> str:
    """The name that tells whether two runs used the same reward function.

    A function of a user's file is named without the file's folder, because the folder may differ between the runs.
    """
    return function if is_built_in(function) else os.path.basename(function)


def _common_sets(files: Sequence[Scored]) -> list[str]:
    """The data sources of the questions that are in both files."""
    first, other = ({answer.prompt_id: answer.data_source for answer in scored.answers} for scored in files)
    return sorted({name for prompt_id, name in first.items() if prompt_id in other})


def _comparisons(files: Sequence[Scored], threshold: float | None) -> dict[str, dict[str, Any]]:
    found = {ALL_SETS: compare(files, threshold)}
    names = _common_sets(files)
    if len(names) > 1:
        found |= {name: compare([_only(scored, name) for scored in files], threshold) for name in names}
    return found


def _only(scored: Scored, data_source: str) -> Scored:
    """The part of `scored` that belongs to one data source."""
    answers = tuple(answer for answer in scored.answers if answer.data_source == data_source)
    records = [record for record in scored.records if record.data_source == data_source]
    return replace(scored, results=replace(scored.results, answers=answers), answers=answers, records=records)
