"""Metrics of a step's rollouts: lengths, reward parts, failures, and the cost of the anchors."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from mars.rollout.collect import NOT_SCORED
from mars.rollout.engine import EngineCounts
from mars.types import PromptRollouts, Rollout, RolloutGroup, RolloutRequest


def rollout_metrics(
    prompts: Sequence[PromptRollouts], prompt_length: Callable[[RolloutRequest], int]
) -> dict[str, float]:
    """Lengths and reward parts over the multi rollouts; failures over multi and anchor rollouts; numbers of responses
    and tokens over all responses that an engine sampled.

    prompt_length: number of tokens in a request's prompt, including image tokens. Returns {} without prompts.
    """
    if not prompts:
        return {}
    multi = [rollout for item in prompts for rollout in item.multi.rollouts]
    anchors = [rollout for item in prompts for group in item.anchors for rollout in group.rollouts]
    lengths = [len(rollout.completion.token_ids) for rollout in multi]
    metrics = {
        "response_length/mean": fmean(lengths),
        "response_length/max": float(max(lengths)),
        "response_length/min": float(min(lengths)),
        "response_length/clip_ratio": fmean(rollout.completion.finish_reason == "length" for rollout in multi),
        "prompt_length/mean": fmean(prompt_length(item.multi.request) for item in prompts),
        "rollout/responses": float(sum(len(group.rollouts) for item in prompts for group in _sampled_groups(item))),
        "anchor/responses": float(len(anchors)),
        "rollout/tokens": float(sum(_sampled_tokens(_sampled_groups(item)) for item in prompts)),
        "anchor/tokens": float(sum(_sampled_tokens(item.anchors) for item in prompts)),
        "reward/failed": float(sum(not rollout.valid for rollout in (*multi, *anchors))),
    }
    parts: dict[str, list[float]] = defaultdict(list)
    for rollout in multi:
        if rollout.valid:
            for name, value in rollout.reward.parts.items():
                parts[name].append(value)
    return metrics | {f"reward/{name}/mean": _mean(values) for name, values in sorted(parts.items())}


def extra_metrics(prompts: Sequence[PromptRollouts]) -> dict[str, float]:
    """For each name of a recipe's extra requests: mean score, accuracy and length of the responses, and the numbers of
    responses, failed rewards and requests without responses.

    Score and accuracy are means over the responses that were scored; the length is a mean over all responses. A mean
    over no response is left out. {} without extra requests.
    """
    by_name: dict[str, list[RolloutGroup]] = defaultdict(list)
    for item in prompts:
        for group in item.extras:
            if group.request.extra is not None and not group.is_copy:
                by_name[group.request.extra.name].append(group)
    metrics: dict[str, float] = {}
    for name, groups in sorted(by_name.items()):
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        scored = [rollout for rollout in rollouts if rollout.valid]
        failed = [rollout for rollout in rollouts if rollout.reward.failed not in (None, NOT_SCORED)]
        lengths = [len(rollout.completion.token_ids) for rollout in rollouts]
        values = {
            "score/mean": [rollout.reward.score for rollout in scored],
            "accuracy/mean": [rollout.reward.accuracy for rollout in scored],
            "response_length/mean": lengths,
        }
        metrics |= {f"extra/{name}/{key}": _mean(numbers) for key, numbers in values.items() if numbers}
        metrics[f"extra/{name}/responses"] = float(len(rollouts))
        metrics[f"extra/{name}/failed"] = float(len(failed))
        metrics[f"extra/{name}/left_out"] = float(sum(not group.rollouts for group in groups))
    return metrics


def engine_metrics(counts: EngineCounts) -> dict[str, float]:
    """Metrics of the engine's caches. The hit rate is left out if no prompt was computed (the scripted engine).

    Example: 3 images, 3 encoder runs, 400 prompt tokens of which 300 came from the cache: 3, 3 and 0.75.
    """
    metrics = {
        "rollout/distinct_images": float(counts.images),
        "rollout/encoder_runs": float(counts.encoder_runs),
    }
    if counts.prompt_tokens:
        metrics["rollout/prefix_cache_hit_rate"] = counts.cached_tokens / counts.prompt_tokens
    return metrics


def processed_tokens(prompts: Sequence[PromptRollouts], prompt_length: Callable[[RolloutRequest], int]) -> int:
    """Prompt and response tokens of all sampled rollouts, for perf/throughput. Each rollout counts its prompt."""
    groups = [group for item in prompts for group in _sampled_groups(item)]
    return sum(len(g.rollouts) * prompt_length(g.request) + _tokens(g.rollouts) for g in groups)


def anchor_share(prompts: Sequence[PromptRollouts], prompt_length: Callable[[RolloutRequest], int]) -> float:
    """The anchors' share of the tokens that the engine computes: each view's prompt once, and all response tokens.

    Used to attribute time, because one engine call generates multi and anchor rollouts together. 0 without prompts.

    Example: a multi prompt of 10 tokens with 2 x 5 response tokens, an anchor prompt of 6 with 4: 10 / 30.
    """

    def computed(groups: Sequence[RolloutGroup]) -> int:
        return sum(prompt_length(group.request) + _tokens(group.rollouts) for group in groups)

    anchors = sum(computed(item.anchors) for item in prompts)
    everything = sum(computed(_sampled_groups(item)) for item in prompts)
    return anchors / everything if everything else 0.0


def _sampled_groups(item: PromptRollouts) -> list[RolloutGroup]:
    return [item.multi, *item.anchors, *_sampled_extras(item)]


def _sampled_extras(item: PromptRollouts) -> list[RolloutGroup]:
    return [group for group in item.extras if group.is_sampled and not group.is_copy]


def _mean(values: Sequence[float]) -> float:
    """The mean, or infinity if the sum exceeds the range of floats: reward parts may be any finite numbers."""
    try:
        return fmean(values)
    except OverflowError:
        return math.inf


def _tokens(rollouts: Sequence[Rollout]) -> int:
    return sum(len(rollout.completion.token_ids) for rollout in rollouts)


def _sampled_tokens(groups: Iterable[RolloutGroup]) -> int:
    """Response tokens without those of a given start (`anchor.forced_start`)."""
    return sum(_tokens(group.rollouts) - len(group.rollouts) * len(group.request.response_start) for group in groups)
