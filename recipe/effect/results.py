"""The numbers of a finished run, as one row of the study's table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from mars.answers.files import read_answers, step_file
from mars.answers.record import Answer
from mars.errors import ConfigError, DataError
from mars.evaluation.summary import EvalRecord, summarize
from mars.report.run_record import EVALUATION_FOLDER
from mars.rewards.contract import ACCURACY
from mars.tracking.jsonl import METRICS_FILE, read_metrics
from mars.tracking.rollouts import ROLLOUTS_FOLDER
from recipe.effect.study import Study

LIGHT = "light"  # key of extra_info: day, night or both
Row = dict[str, Any]
_STEP_METRICS = (
    "critic/score/mean",
    "mars/frac_zero_signal",
    "reward/frac_zero_std",
    "mars/gain/mean",
    "mars/conflict_rate",
    "mars/guide/frac_groups",
    "mars/guide/rescued",
)


def row_of(study: Study, arm: str, run_dir: Path) -> Row:
    """The numbers of one finished run; a key is left out if the run does not have it.

    primary                    mean of the primary metric over its steps, study.primary.first to study.primary.last
    primary/all                mean of the metric over all steps
    primary_series             the metric of each step, from step 1
    train/<metric>/all|window  means of step metrics over all steps, and over the steps of the primary metric
    train/<light>/reward, train/<light>/all_wrong
                               mean accuracy of the multi rollouts written in the steps of the primary metric, and share
                               of prompts for which all of these are wrong; start/<light>/.. the same in step 1
    eval/<quantity>, eval/<light>/<quantity>
                               evaluation after the last step: multi, mono/<source>, union, information_gain,
                               conflict_rate over all items, and over those of one light; eval/n: number of items.
                               before/..: before the first step, if the run has evaluated it
    prompts_sampled, rollout_tokens   over the whole run

    Raises DataError if the evaluation or the primary metric of a step is missing, and ConfigError if no step has the
    primary metric.
    """
    steps = _steps(run_dir, study.steps)
    first, last = study.primary.first, study.primary.last
    metric = study.arms[arm].metric or study.primary.metric
    missing = [number for number, step in steps.items() if step.get(metric) is None]
    if len(missing) == len(steps):
        key = "primary.metric" if study.arms[arm].metric is None else f"arms.{arm}.metric"
        remedy = "name a metric that runs of this arm write; it can be changed until a run is finished"
        raise ConfigError(f"{key}: no step of {run_dir / METRICS_FILE} has it; got {metric}; {remedy}")
    if missing:
        raise DataError(f"{run_dir / METRICS_FILE}: no {metric} in step {missing[0]}; want it in every step")
    series = [steps[number][metric] for number in sorted(steps)]
    row: Row = {"primary": fmean(series[first - 1 : last]), "primary/all": fmean(series), "primary_series": series}
    for key in _STEP_METRICS:
        row |= _means(f"train/{key}", key, steps, first, last)
    row["prompts_sampled"] = sum(step.get("mars/prompts_sampled", 0) for step in steps.values())
    row["rollout_tokens"] = sum(step.get("rollout/tokens", 0) for step in steps.values())
    rollouts = _sampled_rollouts(run_dir)
    row |= _by_light("start", [answer for step, found in rollouts.items() if step == 1 for answer in found])
    row |= _by_light("train", [a for step, found in rollouts.items() if first <= step <= last for a in found])
    if step_file(run_dir / EVALUATION_FOLDER, 0).exists():
        row |= _evaluation("before", run_dir, 0)
    return row | _evaluation("eval", run_dir, study.steps)


def _steps(run_dir: Path, num_steps: int) -> dict[int, dict[str, Any]]:
    """Step -> its metrics, for the steps 1 to `num_steps`."""
    path = run_dir / METRICS_FILE
    try:
        rows = read_metrics(path).rows
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    steps = {row["step"]: row for row in rows if 1 <= row["step"] <= num_steps}
    if len(steps) < num_steps:
        raise DataError(f"{path}: want the steps 1 to {num_steps}; got {len(steps)} of them")
    return steps


def _means(name: str, key: str, steps: Mapping[int, Mapping[str, Any]], first: int, last: int) -> Row:
    """Means of the metric `key` over the steps that have it: <name>/all over all of them, <name>/window over those
    from `first` to `last`. A mean over no step is left out."""
    values = {number: step[key] for number, step in steps.items() if step.get(key) is not None}
    window = [value for number, value in values.items() if first <= number <= last]
    found = {f"{name}/all": list(values.values()), f"{name}/window": window}
    return {part: fmean(of_part) for part, of_part in found.items() if of_part}


def _sampled_rollouts(run_dir: Path) -> dict[int, Sequence[Answer]]:
    files = sorted((run_dir / ROLLOUTS_FOLDER).glob("step_*.jsonl"))
    return {int(file.stem.removeprefix("step_")): read_answers(file).checked() for file in files}


def _by_light(name: str, answers: Sequence[Answer]) -> Row:
    groups: dict[tuple[str, int | None, str], list[float]] = defaultdict(list)
    for answer in answers:
        if answer.view is None and answer.extra is None and answer.reward is not None:
            groups[light_of(answer), answer.step, answer.prompt_id].append(answer.reward.accuracy)
    row: Row = {}
    for light in sorted({light for light, _, _ in groups}):
        of_light = [values for (found, _, _), values in groups.items() if found == light]
        row[f"{name}/{light}/reward"] = fmean(value for values in of_light for value in values)
        row[f"{name}/{light}/all_wrong"] = fmean(max(values) == 0 for values in of_light)
    return row


def _evaluation(name: str, run_dir: Path, step: int) -> Row:
    answers = read_answers(step_file(run_dir / EVALUATION_FOLDER, step)).checked()
    row = _quantities(name, answers)
    row[f"{name}/n"] = len({answer.prompt_id for answer in answers})
    for light in sorted({light_of(answer) for answer in answers}):
        row |= _quantities(f"{name}/{light}", [answer for answer in answers if light_of(answer) == light])
    return row


def _quantities(name: str, answers: Sequence[Answer]) -> Row:
    records = [_record(answer) for answer in answers]
    result = summarize(records, name=name, step=0, model="", threshold=None)
    found = {key: result[key] for key in ("multi", "union", "information_gain", "conflict_rate")}
    found |= {f"mono/{source}": value for source, value in result["mono"].items()}
    return {f"{name}/{key}": value["mean"] for key, value in found.items() if value is not None}


def _record(answer: Answer) -> EvalRecord:
    """The record of an answer, with the accuracy that the run gave it; 0 if scoring it failed."""
    reward = answer.reward
    if reward is None:
        raise DataError(
            f"prompt {answer.prompt_id}: its answer has no reward; want the evaluation that a run has written"
        )
    failed = reward.failed is not None
    accuracy = 0.0 if failed else reward.accuracy
    return EvalRecord(answer.prompt_id, answer.data_source, answer.view, accuracy, failed, metric=ACCURACY)


def light_of(answer: Answer) -> str:
    """The light of the scene: day (trust the visible image), night (infrared) or both. "all" for rows without it."""
    return str(answer.extra_info.get(LIGHT, "all"))
