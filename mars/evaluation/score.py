"""Scores of a result file under both scorers: `mars eval score`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mars.errors import ConfigError
from mars.evaluation.answers import Answer, Size
from mars.evaluation.files import Results, refuse
from mars.evaluation.summary import EvalRecord, summarize
from mars.output.progress import progress
from mars.rewards.built_in import has_boxes, metric_of
from mars.rewards.compat_score import compat_score
from mars.rewards.functions import check_truth
from mars.rewards.local import LocalScorer
from mars.types import RewardInput, RewardResult

logger = logging.getLogger(__name__)

Task = str
"""The built-in reward that the truths are for."""

Frames = tuple[Size, Size]
"""(truth_size, response_size), for answers that come without them."""


@dataclass(frozen=True)
class ScoredAnswer:
    """An answer and what the strict scorer gave; the record has what evaluation takes from it."""

    answer: Answer
    result: RewardResult
    record: EvalRecord


def score_results(results: Results, task: Task, frames: Frames | None) -> list[ScoredAnswer]:
    """Every answer scored, in the order of the file. Nothing is left out: what cannot be read is wrong.

    frames: for boxes of a public result file, in which nothing says how large the images are. Without them boxes and
    truth are taken to be in the same frame, and that is said.

    Raises DataError with all truths that `task` cannot use; ConfigError for frames where the file has its own.
    """
    answers = _framed(results, task, frames)
    first = {answer.prompt_id: answer for answer in answers}.values()
    checked = [(a.row, check_truth(task, a.truth, a.extra_info, a.truth_size)) for a in first]
    refuse([(row, problem) for row, problem in checked if problem], results.path, len(checked), "questions")
    scorer = LocalScorer(task, "strict")
    return [_score(task, scorer, answer) for answer in progress(answers, "Scoring", len(answers))]


def result_of(results: Results, task: Task, threshold: float, scored: Sequence[ScoredAnswer]) -> dict[str, Any]:
    """`summarize` of the file, and besides:

    "results", "task": what was scored. "frames": of the boxes. "cut_off": answers that ended at the token limit, None
    where unknown. "dropped": bad questions that were left out before anything was asked, by reason.
    """
    result = summarize(
        [item.record for item in scored],
        name=results.name,
        step=0,
        model=results.model,
        threshold=threshold,
    )
    reasons = [item.answer.finish_reason for item in scored]
    return {
        **result,
        "results": str(results.path),
        "task": task,
        "frames": _frames_used(task, results, scored),
        "cut_off": None if None in reasons else reasons.count("length"),
        "dropped": dict(results.dropped),
    }


def sample_cards(scored: Sequence[ScoredAnswer], count: int) -> list[Mapping[str, Any]]:
    """The questions to look at, as `mars.report.run_page` shows them: first those where a single source does best
    over all together, then those with the lowest multi accuracy, in the order of the questions where equal."""
    by_prompt: dict[str, list[ScoredAnswer]] = {}
    for item in scored:
        by_prompt.setdefault(item.answer.prompt_id, []).append(item)

    def rank(items: list[ScoredAnswer]) -> tuple[float, float, int]:
        multi = [item.record.value("strict") for item in items if item.answer.view is None]
        mono = [item.record.value("strict") for item in items if item.answer.view is not None]
        mean = sum(multi) / len(multi) if multi else 0.0
        return mean - max(mono, default=mean), mean, items[0].answer.number

    return [_card(items) for items in sorted(by_prompt.values(), key=rank)[:count]]


def _framed(results: Results, task: Task, frames: Frames | None) -> Sequence[Answer]:
    if not results.public:
        if frames is not None:
            raise ConfigError(f"--truth-size, --response-size: {results.path} says itself how large its images are")
        return results.answers
    if not has_boxes(task):
        return results.answers
    if frames is None:
        logger.warning(
            "%s: a public result file says nothing of image sizes; boxes are compared as they stand, as if answers and "
            "truth were in the same frame; give --truth-size and --response-size where they are not",
            results.path,
        )
        return results.answers
    return [replace(answer, truth_size=frames[0], response_size=frames[1]) for answer in results.answers]


def _frames_used(task: Task, results: Results, scored: Sequence[ScoredAnswer]) -> str | None:
    if not has_boxes(task):
        return None
    sizes = {(item.answer.response_size, item.answer.truth_size) for item in scored}
    if not results.public:
        return "of each image"
    ((response, truth),) = sizes
    if response is None or truth is None:
        return "as they stand"
    return f"answers {response[0]}x{response[1]}, truth {truth[0]}x{truth[1]}"


def _score(task: Task, scorer: LocalScorer, answer: Answer) -> ScoredAnswer:
    item = RewardInput(
        data_source=answer.data_source,
        view=answer.view,
        response=answer.text,
        truth=answer.truth,
        truth_size=answer.truth_size,
        response_size=answer.response_size,
        extra_info=answer.extra_info,
    )
    (result,) = scorer.score([item])
    record = EvalRecord(
        answer.prompt_id,
        answer.data_source,
        answer.view,
        result.accuracy,
        failed=result.failed is not None,
        compat=compat_score(task, item, result),
        metric=metric_of(task),
    )
    return ScoredAnswer(answer, result, record)


def _card(items: Sequence[ScoredAnswer]) -> dict[str, Any]:
    answers = [item.answer for item in items]
    first = answers[0]
    views = []
    for view in dict.fromkeys(answer.view for answer in answers):
        shown = [item for item in items if item.answer.view == view]
        views.append(
            {
                "sources": None if view is None else list(view),
                "response_size": shown[0].answer.response_size,
                "responses": [_shown_response(item) for item in shown],
            }
        )
    return {
        "prompt_id": first.prompt_id,
        "row": first.row,
        "data_source": first.data_source,
        "question": [(message.role, message.text) for message in first.question],
        "sources": [(source.name, source.image) for source in first.sources],
        "truth": first.truth,
        "truth_size": first.truth_size,
        "views": views,
    }


def _shown_response(item: ScoredAnswer) -> dict[str, Any]:
    parts = {name: f"{value:.3g}" for name, value in item.result.parts.items()}
    return {
        "text": item.answer.text,
        "score": f"{item.result.score:.3g}",
        "parts": ", ".join(f"{name} {value}" for name, value in parts.items()),
        "failed": item.result.failed,
        "length": "–" if item.answer.response_tokens is None else item.answer.response_tokens,
        "finish_reason": item.answer.finish_reason or "stop",
    }
