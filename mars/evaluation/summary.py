"""The numbers of an evaluation: Multi, Mono per source, Union, information gain, conflict rate (docs/evaluation.md)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist, fmean, stdev
from typing import Any

from mars.algorithms.tolerance import SCORE_TOLERANCE
from mars.rewards.compat_score import CompatScore
from mars.rewards.contract import MEAN_IOU, ScorerName
from mars.types import View, view_name

CONFIDENCE = 0.95


@dataclass(frozen=True)
class EvalRecord:
    """The numbers of one scored answer.

    view: None for the multi view. Every other view counts as a mono view, even a view with several sources
        (an anchor view of anchor=all_but_one).
    accuracy: in [0, 1]; 0 for an answer that cannot be parsed.
    failed: the reward function failed; the answer counts as wrong.
    compat: the compat scorer's result; None for a user's own function, or if `record_of` did not ask for it.
    metric: the name of the accuracy, see `mars.rewards.built_in.metric_of`.
    """

    prompt_id: str
    data_source: str
    view: View
    accuracy: float
    failed: bool
    compat: CompatScore | None = None
    metric: str = field(kw_only=True)

    def __post_init__(self) -> None:
        if not 0 <= self.accuracy <= 1:
            raise ValueError(f"prompt {self.prompt_id}: accuracy must be in [0, 1]; got {self.accuracy}")
        if self.view == ():
            raise ValueError(f"prompt {self.prompt_id}: a view shows one source or more; got none")

    def value(self, scorer: ScorerName) -> float:
        """The answer's value: accuracy (strict), or the score of the paper's public code without format
        points (compat)."""
        if self.failed:
            return 0.0
        if scorer == "strict":
            return self.accuracy
        if self.compat is None:
            raise ValueError(f"prompt {self.prompt_id}: the reward has no compat scorer")
        return self.compat.compat


def summarize(
    records: Sequence[EvalRecord], *, name: str, step: int, model: str, threshold: float | None
) -> dict[str, Any]:
    """The evaluation result, ready for JSON. An answer that failed or cannot be parsed counts as 0.

    Several answers to one view of one prompt are averaged first; the prompt is the unit of all intervals.
    threshold: mean IoU above which a multi answer is a hit; None: "share_over_threshold" is None.
    Values that differ by SCORE_TOLERANCE or less count as equal: in conflicts, at the threshold, and where
    `mean_interval` chooses the kind of interval.

    Returns a mapping with
    - "name", "step", "model", and the "metric" of the records ("accuracy, mean IoU" if there are both);
    - the numbers "n" (of prompts), "answers" (of all records), "failed" and "unparseable" (of such records);
    - the quantities "multi", "mono": {source: ..}, "union", "information_gain", "conflict_rate" and
      "share_over_threshold" (of prompts with a mean IoU). Each is {"mean", "low", "high", "n"}, or None if no prompt
      has it; "share_over_threshold" also has "threshold";
    - "compat": quantities by the compat scorer;
    - "by_data_source": for each data source, a mapping with all of the above but "name", "step" and "model".
    "compat" and "unparseable" are None if a user's own function scored some record. Prompts without mono
    views (one source or none) count in "multi" and "share_over_threshold" only. Where no prompt has an answer to its
    multi view, "multi", "information_gain", "conflict_rate" and "share_over_threshold" are None.

    Raises ValueError if there are no records, or if only some prompts have an answer to their multi view.

    Example: multi 1 and mono 0, 1 give union 1, information gain 0.5, no conflict.
    """
    if not records:
        raise ValueError("an evaluation needs at least one record; got none")
    by_source: dict[str, list[EvalRecord]] = defaultdict(list)
    for record in records:
        by_source[record.data_source].append(record)
    return {
        "name": name,
        "step": step,
        "model": model,
        **_summary(records, threshold),
        "by_data_source": {key: _summary(part, threshold) for key, part in sorted(by_source.items())},
    }


def eval_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """The result as metrics: eval/multi/mean, eval/mono/<source>/mean, eval/union/mean, ..., eval/failed.

    result: that of an `Evaluation`.
    """
    names = ("multi", "union", "information_gain", "conflict_rate", "share_over_threshold")
    quantities = {name: result[name] for name in names}
    quantities.update({f"mono/{source}": value for source, value in result["mono"].items()})
    if result["compat"] is not None:
        quantities["compat_multi"] = result["compat"]["multi"]
    means = {f"eval/{name}/mean": value["mean"] for name, value in quantities.items() if value is not None}
    counts = {f"eval/{name}": result[name] for name in ("failed", "unparseable") if result[name] is not None}
    return {**means, **counts, "eval/unreadable": len(result["unreadable"])}


def mean_interval(values: Sequence[float], lowest: float, highest: float) -> dict[str, Any] | None:
    """Mean of values in [lowest, highest] with its 95 % interval; None without values.

    If every value is `lowest` or `highest`, the mean is a proportion and gets Wilson's score interval (Wilson 1927).
    Other values get Student's t interval over the prompts, cut to the range. If all values are equal, Student's t would
    give an interval of width 0. Instead, the lower end is the mean of a population in which a share z^2 / (n + z^2)
    (Wilson's bound for 0 of n) is `lowest`, and the rest equals the values; the upper end is the same with `highest`.

    Example: 5 of 10 right is 0.5 [0.237, 0.763].
    """
    if not values:
        return None
    n, mean, width = len(values), fmean(values), highest - lowest
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    if max(values) - min(values) <= SCORE_TOLERANCE:
        unseen = z * z / (n + z * z)
        low, high = mean - unseen * (mean - lowest), mean + unseen * (highest - mean)
    elif all(min(value - lowest, highest - value) <= SCORE_TOLERANCE for value in values):
        share = (mean - lowest) / width
        centre = (share + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
        low, high = lowest + width * (centre - half), lowest + width * (centre + half)
    else:
        from scipy.special import stdtrit

        half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * stdev(values) / math.sqrt(n)
        low, high = max(mean - half, lowest), min(mean + half, highest)
    return {"mean": mean, "low": low, "high": high, "n": n}


def prompt_values(
    records: Sequence[EvalRecord], threshold: float | None, scorer: ScorerName
) -> dict[str, dict[str, float]]:
    """{prompt id: {quantity: value}}: the quantities of `summarize` that each prompt has.

    Quantities: multi, mono/<source>, union, information_gain, conflict_rate; share_over_threshold with a threshold, for
    prompts whose metric is MEAN_IOU.
    Raises ValueError where some prompts have an answer to their multi view and others have none.
    """
    answers: dict[str, dict[View, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        answers[record.prompt_id][record.view].append(record.value(scorer))
    without = [prompt_id for prompt_id, views in answers.items() if None not in views]
    if 0 < len(without) < len(answers):
        raise ValueError(f"prompt {without[0]}: no answer to its multi view; got views {list(answers[without[0]])}")
    with_iou = {record.prompt_id for record in records if record.metric == MEAN_IOU}
    return {
        prompt_id: _values(views, threshold if prompt_id in with_iou else None) for prompt_id, views in answers.items()
    }


def bounds(quantity: str, highest: float) -> tuple[float, float]:
    """(least, greatest) possible value of a quantity of `prompt_values`. highest: the greatest possible value of one
    answer; the least is 0."""
    if quantity == "information_gain":
        return -highest, highest
    return 0, 1 if quantity in ("conflict_rate", "share_over_threshold") else highest


def highest_value(records: Sequence[EvalRecord], scorer: ScorerName) -> float:
    """The largest possible value of one answer: 1 with the strict scorer; with the compat scorer, the highest value
    that the truth of any record allows."""
    if scorer == "strict":
        return 1.0
    return max((record.compat.highest for record in records if record.compat is not None), default=1.0)


def _values(views: Mapping[View, Sequence[float]], threshold: float | None) -> dict[str, float]:
    mono = {view_name(view): fmean(values) for view, values in views.items() if view is not None}
    multi = fmean(views[None]) if None in views else None
    values = {} if multi is None else {"multi": multi}
    values |= {f"mono/{source}": value for source, value in mono.items()}
    if mono:
        values["union"] = max(mono.values())
    if mono and multi is not None:
        values["information_gain"] = multi - fmean(mono.values())
        values["conflict_rate"] = float(multi < values["union"] - SCORE_TOLERANCE)
    if multi is not None and threshold is not None:
        values["share_over_threshold"] = fmean(value > threshold + SCORE_TOLERANCE for value in views[None])
    return values


def _summary(records: Sequence[EvalRecord], threshold: float | None) -> dict[str, Any]:
    scores = [record.compat for record in records if record.compat is not None]
    both = len(scores) == len(records)
    return {
        "metric": ", ".join(sorted({record.metric for record in records})),
        "n": len({record.prompt_id for record in records}),
        "answers": len(records),
        "failed": sum(record.failed for record in records),
        "unparseable": sum(not score.readable for score in scores) if both else None,
        **_quantities(records, threshold, "strict"),
        "compat": _quantities(records, None, "compat") if both else None,
    }


def _quantities(records: Sequence[EvalRecord], threshold: float | None, scorer: ScorerName) -> dict[str, Any]:
    prompts, highest = prompt_values(records, threshold, scorer).values(), highest_value(records, scorer)

    def interval(quantity: str) -> dict[str, Any] | None:
        return mean_interval([p[quantity] for p in prompts if quantity in p], *bounds(quantity, highest))

    mono = dict.fromkeys(quantity for prompt in prompts for quantity in prompt if quantity.startswith("mono/"))
    hits = interval("share_over_threshold")
    return {
        "multi": interval("multi"),
        "mono": {quantity.removeprefix("mono/"): interval(quantity) for quantity in mono},
        "union": interval("union"),
        "information_gain": interval("information_gain"),
        "conflict_rate": interval("conflict_rate"),
        "share_over_threshold": hits and {**hits, "threshold": threshold},
    }
