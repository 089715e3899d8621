"""Rules between the settings of evaluations, and between them and `checkpoint.keep_best`."""

from __future__ import annotations

from mars.config.rules import Rule


def is_of_evaluation(metric: str) -> bool:
    """Whether only steps with an evaluation have the metric."""
    return metric.startswith("eval/")


def _metric_of_no_evaluation(metric: str | None, files: list[str], every: int) -> tuple[str, str] | None:
    if metric is None or not is_of_evaluation(metric) or (files and every):
        return None
    missing = "data.eval_files is empty" if not files else "evaluation.every is 0"
    return (
        f"no step has this metric, because no step is evaluated: {missing}",
        "set data.eval_files and evaluation.every, give a metric of the training, such as critic/score/mean, or set "
        "checkpoint.keep_best=null",
    )


def _greedy_once(samples: int, temperature: float) -> tuple[str, str] | None:
    if samples > 1 and temperature == 0:
        return "with evaluation.temperature=0 all answers to a view are equal", "give 1, or a temperature above 0"
    return None


EVALUATION_RULES = (
    Rule(
        ("checkpoint.keep_best", "data.eval_files", "evaluation.every"), _metric_of_no_evaluation, spares_records=True
    ),
    Rule(("evaluation.samples_per_prompt", "evaluation.temperature"), _greedy_once, spares_records=True),
)
