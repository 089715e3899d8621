"""Try rewards on real rows before a run and in `--dry-run`, to find those that fail or miss right answers."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Callable, Sequence
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
_FAILED_ON_EMPTY = "; responses on which it fails are left out of training, so let it return a score of 0 instead"


def try_rewards(
    scorer: RewardScorer, inputs: Inputs, prompts: Sequence[Prompt], warn: Callable[[str], None] = logger.warning
) -> None:
    """For every reward, score the right and the empty answer to the first rows that use it.

    Raises ConfigError if the reward fails on all right answers, or if a result that has not
    failed lacks a part of `algorithm.part_weights`. Empty answers are scored for this too, because a reward may give
    parts only to right answers.

    Warns if the reward fails on some answers. Without `reward.by_prompt`, it also warns if the reward scores no right
    answer, in any usual form, above the empty one.
    """
    config = inputs.config
    rewards, part_weights = rewards_of(config), config.algorithm.part_weights
    for name in rewards.names:
        some = [prompt for prompt in prompts if rewards.of(prompt.data_source) == name][:_ROWS]
        right = [answered_perfectly(prompt, None, name, inputs.frames) for prompt in some]
        empty = [reward_input(prompt, None, EMPTY_ANSWER, inputs.frames) for prompt in some]
        results = scorer.score([*right, *empty])
        of_right, of_empty = results[: len(some)], results[len(some) :]
        remedy = f"try it: {_trial_command(name, right[0], config.reward.by_prompt)}" if right else ""
        check_self_test(right, of_right, part_weights, remedy)
        check_parts(empty, of_empty, part_weights)
        of_usable = [nothing for one, nothing in zip(of_right, of_empty, strict=True) if one.failed is None]
        for answer, answers, advice in (("right", of_right, ""), ("empty", of_usable, _FAILED_ON_EMPTY)):
            failed = [result.failed for result in answers if result.failed is not None]
            if failed:
                count = f"{len(failed)} of {len(answers)} rows"
                warn(f"{name}: fails on the {answer} answer to {count}; the first: {failed[0]}{advice}")
        # With by_prompt, each answer here is a list of its own. A function that compares the answers of a list gives
        # all such lists the same score.
        if some and not config.reward.by_prompt and not _scores_right_answers(scorer, right, of_right, of_empty):
            warn(_missed(name, right[0], of_right[0], of_empty[0]))


def _trial_command(spec: str, item: RewardInput, by_prompt: bool) -> str:
    """`mars reward try` with the item, to type in a shell."""
    words = ["mars", "reward", "try", spec, "--text", item.response, "--truth", item.truth]
    words += ["--data-source", item.data_source]
    if item.truth_size is not None and item.response_size is not None:
        for option, (width, height) in (("--truth-size", item.truth_size), ("--response-size", item.response_size)):
            words += [option, f"{width}x{height}"]
    if item.extra_info:
        words += ["--extra-info", json.dumps(item.extra_info, ensure_ascii=False, default=str)]
    return shlex.join([*words, *(["--by-prompt"] if by_prompt else [])])


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
