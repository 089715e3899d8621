"""Rules between the settings of anchors and other settings."""

from __future__ import annotations

from collections.abc import Mapping

from mars.config.rules import Rule


def _group_has_signal(samples: int, anchor: str) -> tuple[str, str] | None:
    if samples < 2 and anchor == "none":
        return "a single rollout has no advantage", "give 2 or more, or anchors (anchor=mono)"
    return None


def _layout_of_one_source(layout: str, anchor: str) -> tuple[str, str] | None:
    if layout == "repeated" and anchor == "all_but_one":
        return "repeated is for views of one image, but anchor.kind=all_but_one shows several", "give single"
    return None


def _wording_of_one_slot(wording: str, layout: str) -> tuple[str, str] | None:
    if wording == "per_view" and layout == "repeated":
        return (
            "anchor.image_layout=repeated needs the text of the multi view",
            "give same, or anchor.image_layout=single",
        )
    return None


def _std_of_multi_rewards(
    pooled_statistics: str, normalize_std: bool, std_floor: float, samples: int, anchor: str
) -> tuple[str, str] | None:
    if anchor == "none" or pooled_statistics != "mean" or not normalize_std:
        return None
    if samples < 2:
        wrong = "a single multi rollout (rollout.samples_per_prompt=1) has no standard deviation to divide by"
        return wrong, "give mean_and_std, or algorithm.normalize_std=false"
    if std_floor == 0:
        wrong = "if all multi rewards are equal, their standard deviation is 0 and the divisor is only epsilon"
        return wrong, "set algorithm.std_floor (0.1, say), or algorithm.normalize_std=false"
    return None


def _greedy_once(samples: int, sampling: str, anchor: str) -> tuple[str, str] | None:
    if sampling == "greedy" and samples > 1 and anchor != "none":
        return "with anchor.sampling=greedy all rollouts of a view are equal", "give 1, or anchor.sampling=policy"
    return None


def _guided_by_anchors(
    guide: str, anchor: str, pooled_statistics: str, part_weights: Mapping[str, float]
) -> tuple[str, str] | None:
    if guide == "off":
        return None
    if anchor == "none":
        return "without anchors there are no guests", "give off, or anchors (anchor=mono)"
    if pooled_statistics == "mean":
        wrong = "guests are in the mean and in the standard deviation, and anchor.pooled_statistics is mean"
        return wrong, "give off, or anchor.pooled_statistics=mean_and_std"
    if part_weights:
        wrong = "guests are chosen by their scores, which algorithm.part_weights does not train on"
        return wrong, "give off, or algorithm.part_weights={}"
    return None


def _filter_of_guests(own: str | None, guide: str) -> tuple[str, str] | None:
    if own is not None and guide == "off":
        return "has no effect with anchor.guide=off", "give null, or anchor.guide=above_mean"
    return None


def _shuffled_between_prompts(shuffle: str, anchor: str, guide: str, per_step: int) -> tuple[str, str] | None:
    if shuffle == "off":
        return None
    if anchor == "none":
        return "there are no anchors to shuffle", "give off, or anchors (anchor=mono)"
    if shuffle == "both" and guide == "off":
        return "without guests only rewards are used, so both is the same as reward", "give reward"
    if per_step < 2:
        return "a round of one prompt (data.prompts_per_step=1) has no other anchors", "give off, or more prompts"
    return None


def _second_half(allocation: str, samples: int, anchor: str, by_prompt: bool) -> tuple[str, str] | None:
    if allocation == "even":
        return None
    if samples < 2:
        return f"rollout.samples_per_prompt={samples} has no second half", "give even, or 2 or more samples"
    if allocation == "conflict" and anchor == "none":
        return "anchor.kind=none has no anchors to look at", "give unsolved or even, or anchors (anchor=mono)"
    if by_prompt:
        wrong = "reward.by_prompt=true scores all responses to a prompt at once, so that none has a score at half"
        return wrong, "give even, or reward.by_prompt=false"
    return None


def _start_of_sources(start: str | None, anchor: str) -> tuple[str, str] | None:
    if anchor == "forced_source" and (start is None or "{source}" not in start):
        return "anchor.kind=forced_source needs the start of its responses", 'give a text such as "<think> {source}"'
    if anchor != "forced_source" and start is not None:
        return f"has no effect with anchor.kind={anchor}", "set it to null"
    return None


ANCHOR_RULES = (
    Rule(("anchor.samples_per_view", "anchor.sampling", "anchor.kind"), _greedy_once),
    Rule(("anchor.image_layout", "anchor.kind"), _layout_of_one_source),
    Rule(("anchor.wording", "anchor.image_layout"), _wording_of_one_slot),
    Rule(
        (
            "anchor.pooled_statistics",
            "algorithm.normalize_std",
            "algorithm.std_floor",
            "rollout.samples_per_prompt",
            "anchor.kind",
        ),
        _std_of_multi_rewards,
    ),
    Rule(("rollout.samples_per_prompt", "anchor.kind"), _group_has_signal),
    Rule(
        ("anchor.guide", "anchor.kind", "anchor.pooled_statistics", "algorithm.part_weights"),
        _guided_by_anchors,
    ),
    Rule(("anchor.forced_start", "anchor.kind"), _start_of_sources),
    Rule(("anchor.guide_filter", "anchor.guide"), _filter_of_guests),
    Rule(("anchor.shuffle", "anchor.kind", "anchor.guide", "data.prompts_per_step"), _shuffled_between_prompts),
    Rule(("anchor.allocation", "rollout.samples_per_prompt", "anchor.kind", "reward.by_prompt"), _second_half),
)
