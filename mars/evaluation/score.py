"""Scores of a result file by the scorers strict and compat (docs/rewards.md): `mars eval score`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from mars.answers.record import Answer, Size, by_question
from mars.errors import ConfigError
from mars.evaluation.files import Results
from mars.evaluation.summary import EvalRecord, summarize
from mars.output.problems import refuse
from mars.output.progress import progress
from mars.rewards.built_in import has_boxes, metric_of
from mars.rewards.compat_score import compat_score
from mars.rewards.functions import check_truth
from mars.rewards.local import LocalScorer
from mars.types import RewardResult

logger = logging.getLogger(__name__)

Task = str
"""The built-in reward that the truths are for."""

Frames = tuple[Size, Size]
"""(truth_size, response_size), for answers that come without them."""


@dataclass(frozen=True)
class Scored:
    """A result file, its answers with rewards, and the record of each answer for `summarize`.

    The rewards are the strict scorer's (`score_results`), or those that a training run gave to the answers of its own
    evaluation (mars/evaluation/run_pairs.py). In the second case, `task` is the text of the run's rewards.
    """

    results: Results
    task: Task
    answers: Sequence[Answer]
    records: Sequence[EvalRecord]


def score_results(results: Results, task: Task, frames: Frames | None) -> Scored:
    """Score every answer, in the order of the results. What cannot be parsed counts as wrong.

    Rewards that a run gave when it sampled the answers are replaced.

    frames: for boxes in a file in the public format, which does not say how large its images are. Without frames, boxes
    and truth are taken to be in the same frame, and a warning says so.

    Raises DataError with all truths that `task` cannot use, and ConfigError if `frames` is given for a file with image
    sizes.
    """
    answers = _with_frames(results, task, frames)
    checked = [
        (first.row, check_truth(task, first.truth, first.extra_info, first.truth_size))
        for first, *_ in by_question(answers)
    ]
    refuse([(row, problem) for row, problem in checked if problem is not None], results.path, len(checked), "questions")
    scorer = LocalScorer(task, "strict")
    scored = [
        replace(answer, reward=scorer.score([answer.reward_input])[0])
        for answer in progress(answers, "Scoring", len(answers))
    ]
    return Scored(results, task, scored, [record_of(answer, task) for answer in scored])


def record_of(answer: Answer, function: str, *, with_compat: bool = True) -> EvalRecord:
    """The record for `summarize` of an answer that the reward `function` scored.

    with_compat: also score it with the compat scorer, if `function` has one.
    """
    reward = _reward_of(answer)
    return EvalRecord(
        answer.prompt_id,
        answer.data_source,
        answer.view,
        reward.accuracy,
        failed=reward.failed is not None,
        compat=compat_score(function, answer.reward_input, reward) if with_compat else None,
        metric=metric_of(function),
    )


def reward_means(answers: Sequence[Answer]) -> dict[str, Any] | None:
    """{"score": mean, "parts": {name: mean}, "n": number of answers} over the answers to the multi view.

    answers: scored answers. Answers whose reward failed are left out; the result is None if no answer is left. The mean
    of a part is over the answers that have it, as in the metric reward/<part>/mean.

    Example: scores 1 and 0, of which the first has a part "close" of 0.5, give score 0.5, close 0.5, n 2.
    """
    rewards = [reward for answer in answers if answer.view is None and not (reward := _reward_of(answer)).failed]
    if not rewards:
        return None
    names = sorted({name for reward in rewards for name in reward.parts})
    parts = {name: fmean(reward.parts[name] for reward in rewards if name in reward.parts) for name in names}
    return {"score": fmean(reward.score for reward in rewards), "parts": parts, "n": len(rewards)}


def num_cut_off(answers: Sequence[Answer]) -> int | None:
    """Answers that ended at the token limit; None if the file does not say how some answer ended."""
    reasons = [answer.finish_reason for answer in answers]
    return None if None in reasons else reasons.count("length")


def result_of(scored: Scored, threshold: float) -> dict[str, Any]:
    """The result of `summarize` with these keys added:

    - "results", "task": the file, and the reward that scored it;
    - "frames": the image sizes that the boxes refer to;
    - "reward": `reward_means`. "cut_off": `num_cut_off`;
    - "dropped": the number of bad questions that were left out before anything was asked, by reason;
    - "unreadable": prompt id -> reason, of the questions that could not be read when they were asked.
    """
    results = scored.results
    result = summarize(scored.records, name=results.name, step=0, model=results.model, threshold=threshold)
    return {
        **result,
        "results": str(results.path),
        "task": scored.task,
        "frames": _frames_used(scored),
        "reward": reward_means(scored.answers),
        "cut_off": num_cut_off(scored.answers),
        "dropped": dict(results.dropped),
        "unreadable": dict(results.unreadable),
    }


def _reward_of(answer: Answer) -> RewardResult:
    if answer.reward is None:
        raise ValueError(f"prompt {answer.prompt_id}: the answer is not scored")
    return answer.reward


def _with_frames(results: Results, task: Task, frames: Frames | None) -> Sequence[Answer]:
    if not results.public:
        if frames is not None:
            raise ConfigError(
                f"--truth-size, --response-size: {results.path} has its own image sizes; leave these options out"
            )
        return results.answers
    if not has_boxes(task):
        return results.answers
    if frames is None:
        logger.warning(
            "%s: the public format does not say how large images are; boxes of answers and truth are taken to refer to "
            "the same image size; give --truth-size and --response-size if they do not",
            results.path,
        )
        return results.answers
    return [replace(answer, truth_size=frames[0], response_size=frames[1]) for answer in results.answers]


def _frames_used(scored: Scored) -> str | None:
    if not has_boxes(scored.task):
        return None
    if not scored.results.public:
        return "of each image"
    ((response, truth),) = {(answer.response_size, answer.truth_size) for answer in scored.answers}
    if response is None or truth is None:
        return "the same for answers and truth (assumed)"
    return f"answers {response[0]}x{response[1]}, truth {truth[0]}x{truth[1]}"
