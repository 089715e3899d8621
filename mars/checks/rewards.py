"""Rewards are tried on real rows before a run, and by `--dry-run`: a reward that fails, or misses right answers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from mars.answers.record import reward_input
from mars.checks.answers import EMPTY_ANSWER, answered_perfectly
from mars.inputs import Inputs, rewards_of
from mars.output.text import shorten
from mars.rewards.contract import RewardScorer, check_parts, check_self_test
from mars.types import Prompt, RewardInput, RewardResult

logger = logging.getLogger(__name__)

_ROWS = 4
_SHOWN_CHARS = 80


def try_rewards(scorer: RewardScorer, inputs: Inputs, prompts: Sequence[Prompt]) -> None:
    """For every reward, score the right and the empty answer to the first rows that use it.

    Raises ConfigError if the reward fails on all right answers, or lacks a part of `algorithm.part_weights`, also in
    the result of an empty answer: a reward may give its parts to right answers only. Warns if it fails on some, and if
    it scores none of the right answers, in any usual form, above the empty one. That is no error, because only the
    function knows its form of an answer.
    """
    config = inputs.config
    rewards, part_weights = rewards_of(config), config.algorithm.part_weights
    for name in rewards.names:
        some = [prompt for prompt in prompts if rewards.of(prompt.data_source) == name][:_ROWS]
        right = [answered_perfectly(prompt, None, name, inputs.frames) for prompt in some]
        empty = [reward_input(prompt, None, EMPTY_ANSWER, inputs.frames) for prompt in some]
        results = scorer.score([*right, *empty])
        of_right, of_empty = results[: len(some)], results[len(some) :]
        check_self_test(right, of_right, part_weights)
        check_parts(empty, of_empty, part_weights)
        failed = [result.failed for result in of_right if result.failed is not None]
        if failed:
            logger.warning(
                "%s: fails on the right answer to %d of %d rows; the first: %s", name, len(failed), len(some), failed[0]
            )
        # A list of one answer has no rank, so a function that compares answers scores all of them alike.
        if some and not config.reward.by_prompt and not _scores_right_answers(scorer, right, of_right, of_empty):
            logger.warning("%s", _missed(name, right[0], of_right[0], of_empty[0]))


def _scores_right_answers(
    scorer: RewardScorer, right: Sequence[RewardInput], of_right: Sequence[RewardResult], empty: Sequence[RewardResult]
) -> bool:
    if _is_above(of_right, empty):
        return True
    forms = (r"<think>The truth.</think><answer>\boxed{{{}}}</answer>", "{}")
    others = [replace(item, response=form.format(item.truth)) for form in forms for item in right]
    return _is_above(scorer.score(others), list(empty) * len(forms))


def _is_above(results: Sequence[RewardResult], empty: Sequence[RewardResult]) -> bool:
    pairs = zip(results, empty, strict=True)
    return any(one.failed is None and (nothing.failed or one.score > nothing.score) for one, nothing in pairs)


def _missed(name: str, item: RewardInput, right: RewardResult, empty: RewardResult) -> str:
    return (
        f"{name}: scores the right answer no higher than an empty one in the first rows; got {right.score:g} and "
        f"{empty.score:g} for {shorten(item.response, _SHOWN_CHARS)!r} and {EMPTY_ANSWER!r}; if it wants another form "
        "of answer, this is no mistake, else no response can earn anything: try it with `mars reward try`"
    )
