"""Evaluation of a policy: Multi, Mono per source, Union, information gain, conflict rate (docs/method, evaluation)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import Any

from mars.rewards.reward import RewardScorer
from mars.rollout.collect import BoxFrames, collect, score_stream
from mars.rollout.engine import RolloutEngine
from mars.rollout.plan import RolloutPlan
from mars.types import Prompt, View

CONFIDENCE = 0.95

# Training steps count from 1: no evaluation shares its seeds with one.
_EVALUATION_STEP = 0

# Means of equal accuracies over different counts differ by rounding; that is no conflict.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class EvalRecord:
    """One scored answer to one view of one prompt.

    accuracy: in [0, 1]; 0 for an answer that cannot be parsed.
    failed: the reward function failed; counted as wrong, whatever `accuracy` says.
    """

    prompt_id: str
    data_source: str
    view: View
    accuracy: float
    failed: bool

    def __post_init__(self) -> None:
        if not 0 <= self.accuracy <= 1:
            raise ValueError(f"prompt {self.prompt_id}: accuracy must be in [0, 1]; got {self.accuracy}")
        if self.view is not None and len(self.view) != 1:
            raise ValueError(f"prompt {self.prompt_id}: evaluation has multi and mono views; got view {self.view}")


@dataclass(frozen=True)
class _PromptResult:
    """Means over the answers of one prompt; hit: share of its multi answers over the threshold."""

    multi: float
    mono: Mapping[str, float]
    hit: float | None


@dataclass(frozen=True)
class EvaluationParts:
    """What an evaluation uses. plan: the multi view and every mono view of each prompt.

    metric: what `accuracy` is called here, "accuracy" or "mean IoU". threshold: see `summarize`.
    """

    engine: RolloutEngine
    scorer: RewardScorer
    plan: RolloutPlan
    decode: Callable[[Sequence[int]], str]
    frames: BoxFrames
    metric: str
    threshold: float | None


def evaluate(parts: EvaluationParts, prompts: Sequence[Prompt], *, name: str, step: int, model: str) -> dict[str, Any]:
    """One engine call for all views of all prompts, scored and summarized.

    The seeds do not depend on `step`, so evaluations of one run are paired.
    """
    requests = parts.plan.requests(prompts, step=_EVALUATION_STEP)
    finished = parts.engine.generate(requests)
    scored = score_stream(prompts, requests, finished, decode=parts.decode, frames=parts.frames, scorer=parts.scorer)
    rollouts = collect(prompts, requests, scored)
    records = [
        EvalRecord(
            item.prompt.prompt_id,
            item.prompt.data_source,
            rollout.view,
            rollout.reward.accuracy,
            failed=not rollout.valid,
        )
        for item in rollouts
        for group in (item.multi, *item.anchors)
        for rollout in group.rollouts
    ]
    return summarize(records, name=name, step=step, model=model, metric=parts.metric, threshold=parts.threshold)


def summarize(
    records: Sequence[EvalRecord], *, name: str, step: int, model: str, metric: str, threshold: float | None
) -> dict[str, Any]:
    """The evaluation result, JSON-ready. Every record stays in its denominator.

    Several answers to one view of one prompt are averaged first; the prompt is the unit of all intervals.
    metric: "accuracy" or "mean IoU". threshold: IoU above which a multi answer is a hit (grounding), else None.

    Returns {"name", "step", "model", "metric", "n" (prompts), "failed" (records), "multi", "mono": {source: ..},
    "union", "information_gain", "conflict_rate", "share_over_threshold", "by_data_source": {name: the same}} where
    each quantity is {"mean", "low", "high", "n"}, or None where no prompt has it. Prompts without mono views (one
    source or none) count in "multi" alone.

    Raises ValueError: no records, or a prompt without an answer to its multi view.

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
        "metric": metric,
        **_quantities(records, threshold),
        "by_data_source": {key: _quantities(part, threshold) for key, part in sorted(by_source.items())},
    }


def eval_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """The result as metrics: eval/multi/mean, eval/mono/<source>/mean, eval/union/mean, ..., eval/failed."""
    names = ("multi", "union", "information_gain", "conflict_rate", "share_over_threshold")
    quantities = {name: result[name] for name in names}
    quantities.update({f"mono/{source}": value for source, value in result["mono"].items()})
    means = {f"eval/{name}/mean": value["mean"] for name, value in quantities.items() if value is not None}
    return {**means, "eval/failed": result["failed"]}


def mean_interval(values: Sequence[float], lowest: float, highest: float) -> dict[str, Any] | None:
    """Mean of values in [lowest, highest] with its 95 % interval; None without values.

    Values that are all `lowest` or `highest` are a proportion: Wilson's score interval (Wilson 1927). Others: Student's
    t over the prompts, cut to the range. Equal values have no spread to go by: at most z^2 / (n + z^2) of the
    population differs from them (Wilson's bound for 0 of n), as far as the range allows.

    Example: 5 of 10 right is 0.5 [0.237, 0.763].
    """
    if not values:
        return None
    n, mean, width = len(values), fmean(values), highest - lowest
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    if min(values) == max(values):
        unseen = z * z / (n + z * z)
        low, high = mean - unseen * (mean - lowest), mean + unseen * (highest - mean)
    elif set(values) <= {lowest, highest}:
        share = (mean - lowest) / width
        centre = (share + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
        low, high = lowest + width * (centre - half), lowest + width * (centre + half)
    else:
        from scipy.special import stdtrit

        half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * stdev(values) / math.sqrt(n)
        low, high = max(mean - half, lowest), min(mean + half, highest)
    return {"mean": mean, "low": low, "high": high, "n": n}


def _quantities(records: Sequence[EvalRecord], threshold: float | None) -> dict[str, Any]:
    prompts = _by_prompt(records, threshold)
    both = [prompt for prompt in prompts if prompt.mono]
    sources = list(dict.fromkeys(source for prompt in both for source in prompt.mono))
    gains = [prompt.multi - fmean(prompt.mono.values()) for prompt in both]  # paired: per prompt
    conflicts = [float(prompt.multi < max(prompt.mono.values()) - _ROUNDING) for prompt in both]
    hits = mean_interval([prompt.hit for prompt in prompts if prompt.hit is not None], 0, 1)
    return {
        "n": len(prompts),
        "failed": sum(record.failed for record in records),
        "multi": mean_interval([prompt.multi for prompt in prompts], 0, 1),
        "mono": {
            source: mean_interval([prompt.mono[source] for prompt in both if source in prompt.mono], 0, 1)
            for source in sources
        },
        "union": mean_interval([max(prompt.mono.values()) for prompt in both], 0, 1),
        "information_gain": mean_interval(gains, -1, 1),
        "conflict_rate": mean_interval(conflicts, 0, 1),
        "share_over_threshold": hits and {**hits, "threshold": threshold},
    }


def _by_prompt(records: Sequence[EvalRecord], threshold: float | None) -> list[_PromptResult]:
    answers: dict[str, dict[View, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        answers[record.prompt_id][record.view].append(0.0 if record.failed else record.accuracy)
    results = []
    for prompt_id, views in answers.items():
        if None not in views:
            raise ValueError(f"prompt {prompt_id}: no answer to its multi view; got views {list(views)}")
        mono = {view[0]: fmean(values) for view, values in views.items() if view is not None}
        hit = None if threshold is None else fmean(value > threshold for value in views[None])
        results.append(_PromptResult(fmean(views[None]), mono, hit))
    return results
