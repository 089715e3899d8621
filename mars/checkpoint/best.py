"""Whether the checkpoint of a step can be compared by the metric that `checkpoint.keep_best` names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from difflib import get_close_matches

from mars.config.evaluation_rules import is_of_evaluation


def near_metrics(metric: str, known: Collection[str]) -> list[str]:
    """Up to three names of `known` that are spelt like `metric`; all metrics of evaluations if there is none.

    >>> near_metrics("multi/maen", {"eval/multi/mean", "critic/score/mean"})
    ['eval/multi/mean']
    """
    return get_close_matches(metric, known, n=3) or sorted(filter(is_of_evaluation, known))


def missing_metric(metric: str | None, metrics: Mapping[str, float]) -> str | None:
    """A warning if a step's metrics lack the metric of `checkpoint.keep_best`; None if they have it.

    None too if the metric is one of evaluations, and the step was not evaluated.
    """
    if metric is None or metric in metrics:
        return None
    if is_of_evaluation(metric) and not any(map(is_of_evaluation, metrics)):
        return None
    near = ", ".join(near_metrics(metric, metrics))
    return (
        f"the step has no metric {metric!r} (checkpoint.keep_best), so its checkpoint is not kept as the best"
        f"{near and f'; similar names that it has: {near}'}; a resumed run can be given another name"
    )
