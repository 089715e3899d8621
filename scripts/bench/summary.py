"""Compute the figures of the report from the times of single steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

STAGES = ("gen", "reward", "old_log_prob", "update_actor", "sync_weights", "driver")
"""Keys timing_s/<stage> of metrics.jsonl. Together they are timing_s/step."""


@dataclass(frozen=True)
class Run:
    """One child process, in round `number` (from 0). All times are in seconds.

    step_seconds: from the end of one step to the end of the next, without the warm-up.
    launch_to_first_step: from the start of the process to the end of its first step.
    rows: the rows of metrics.jsonl of the same steps; empty for a trainer that writes no such file.
    """

    contender: str
    number: int
    step_seconds: tuple[float, ...]
    launch_to_first_step: float
    response_tokens: float
    cpu_busy_before: float
    rows: tuple[Mapping[str, float], ...]


def intervals(ends: Sequence[float], warm_up: int) -> tuple[float, ...]:
    """Seconds of each step after the first `warm_up` steps, from the times at which all steps ended.

    A step's time starts at the end of the step before it. The first step has none, so warm_up is at least 1.
    Example: ends [10, 12, 13, 15] and warm_up 2 -> (1, 2).
    """
    if not 1 <= warm_up < len(ends):
        raise ValueError(f"warm_up must be 1 to {len(ends) - 1} for {len(ends)} steps; got {warm_up}")
    return tuple(later - earlier for earlier, later in pairwise(ends[warm_up - 1 :]))


def stage_seconds(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Median seconds of each stage over the steps. A stage that a step does not have counts as 0 s.

    The medians of parts need not add up to the median of the whole.
    """
    return {stage: median(row.get(f"timing_s/{stage}", 0.0) for row in rows) for stage in STAGES}


def contender_report(runs: Sequence[Run]) -> dict[str, Any]:
    """The figures of one contender. Medians are over the steps of all its runs, without the warm-up; that of
    launch_to_first_step is over the runs."""
    rows = [row for run in runs for row in run.rows]
    report: dict[str, Any] = {
        "seconds_per_step": median(second for run in runs for second in run.step_seconds),
        "seconds_per_step_of_each_run": [median(run.step_seconds) for run in runs],
        "num_steps": sum(len(run.step_seconds) for run in runs),
        "response_tokens": [run.response_tokens for run in runs],
        "launch_to_first_step": median(run.launch_to_first_step for run in runs),
        "cpu_busy_before": [run.cpu_busy_before for run in runs],
    }
    if rows:
        report["step"] = median(row["timing_s/step"] for row in rows)
        report["stages"] = stage_seconds(rows)
        report["driver_share"] = median(row["perf/driver_share"] for row in rows)
        between = [
            seconds - row["timing_s/step"]
            for run in runs
            for seconds, row in zip(run.step_seconds, run.rows, strict=True)
        ]
        report["between_steps"] = median(between)
    return report


def ratio(numerator: Sequence[Run], denominator: Sequence[Run], target: float) -> dict[str, Any]:
    """Ratio of the medians, and the ratio in each common round, whose spread shows the noise of the machine."""
    over, under = (median(s for run in runs for s in run.step_seconds) for runs in (numerator, denominator))
    beside = {run.number: median(run.step_seconds) for run in denominator}
    rounds = [median(run.step_seconds) / beside[run.number] for run in numerator if run.number in beside]
    return check(over / under, target) | {"of_each_round": rounds}


def check(value: float, target: float) -> dict[str, Any]:
    """A figure, its upper limit, and whether the figure is within the limit."""
    return {"value": value, "target": target, "met": value <= target}


def rounded(value: Any, digits: int = 4) -> Any:
    """Round every float in nested dicts and lists to `digits` decimals."""
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, Mapping):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [rounded(item, digits) for item in value]
    return value
