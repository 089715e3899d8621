"""The contract of a reward: one answer in; a score, an accuracy and named parts out, as plain numbers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from mars import plugin
from mars.errors import ConfigError
from mars.types import MAX_SCORE, RewardInput, RewardResult

logger = logging.getLogger(__name__)

ADDED_PARTS = ("overlong_penalty", "kl_penalty")
"""Parts that mars adds to a score after the reward function (mars/algorithms/penalties.py): reserved names."""

ScorerName = Literal["strict", "compat"]
"""The formula of a built-in reward's score: the paper's accuracy ("strict") or the paper's public code ("compat")."""

ACCURACY, MEAN_IOU = "accuracy", "mean IoU"
"""The names of an accuracy in evaluations: ACCURACY for right or wrong and for users' rewards, MEAN_IOU for boxes."""

Size = tuple[int, int]
"""Width and height."""

CheckTruth = Callable[[str, Mapping[str, Any], Size | None], str | None]
"""(truth, extra_info, truth_size) -> what is wrong with a ground truth, or None."""


class RewardFn(Protocol):
    """Scores one answer. If it raises, that sample is masked and counted."""

    def __call__(self, item: RewardInput) -> RewardResult: ...


class RewardListFn(Protocol):
    """Scores all answers to one prompt (`reward.by_prompt`). If it raises, all these samples are masked."""

    def __call__(self, items: Sequence[RewardInput]) -> Sequence[RewardResult]: ...


class RewardScorer(Protocol):
    """Scores answers; the results are in the order of the answers.

    An answer that cannot be scored raises nothing: it gets a `RewardResult` with `failed` set."""

    def score(self, items: Iterable[RewardInput | tuple[RewardInput, ...]]) -> list[RewardResult]:
        """items: may be a slow stream; items are scored as they arrive. Exceptions of the stream are passed on.

        An item may be a tuple with all answers to a prompt. The result is a flat list with one entry for each
        answer."""
        ...

    def close(self) -> None: ...


def _always_one(truth: str) -> float:
    return 1.0


def _nothing_to_prepare() -> None:
    return None


@dataclass(frozen=True)
class BuiltInReward:
    """Everything mars knows about one of its own rewards. `mars.rewards.built_in.BUILT_IN` is the table of them.

    name: as in `reward.function`.
    score, compat: the reward with `reward.scorer=strict` and with `compat`; the same function if there is only one.
        Both give the same accuracy and parts. The score of `compat` is the format points plus the part "compat" of the
        result, or plus the accuracy if there is no such part.
    check_truth: see CheckTruth.
    perfect_answer: (item) -> the response of a model that knows `item.truth`, boxes in the frame `item.response_size`;
        `item.response` is ignored. It must score an accuracy of 1. May raise DataError for a malformed truth.
    is_readable: (response) -> whether it has an answer that can be compared; evaluations count responses without one.
    parts: the names of the parts that every result has.
    metric: what evaluations call the accuracy: ACCURACY or MEAN_IOU.
    template: the prompt template configs/data/<template>.jinja, which asks for such answers.
    has_boxes: truths and answers are lists of boxes, which are scaled between frames.
    highest_compat: (truth) -> the largest value of the part "compat" (or of the accuracy) that the truth allows.
    prepare: imports what scoring needs, before the first deadline starts.
    """

    name: str
    score: RewardFn
    compat: RewardFn
    check_truth: CheckTruth
    perfect_answer: Callable[[RewardInput], str]
    is_readable: Callable[[str], bool]
    parts: tuple[str, ...]
    metric: str
    template: str
    has_boxes: bool = False
    highest_compat: Callable[[str], float] = _always_one
    prepare: Callable[[], None] = _nothing_to_prepare


class PartsScorer:
    """A `RewardScorer` whose results fail unless each named part is there and within -MAX_SCORE to MAX_SCORE. Logs each
    of these failures once.

    parts: the names in `algorithm.part_weights`: advantages are computed from these parts instead of the score.
    """

    def __init__(self, scorer: RewardScorer, parts: Collection[str]) -> None:
        self._scorer, self._parts = scorer, parts
        self._logged: set[str] = set()

    def score(self, items: Iterable[RewardInput | tuple[RewardInput, ...]]) -> list[RewardResult]:
        return [self._checked(result) for result in self._scorer.score(items)]

    def close(self) -> None:
        self._scorer.close()

    def _checked(self, result: RewardResult) -> RewardResult:
        if result.failed is not None:
            return result
        for part in self._parts:
            if part not in result.parts:
                got = ", ".join(sorted(result.parts)) or "none"
                return self._failed(f"no part {part}, which algorithm.part_weights names", got)
            if not abs(result.parts[part]) <= MAX_SCORE:
                return self._failed(f"{part} is not in [-{MAX_SCORE:g}, {MAX_SCORE:g}]", result.parts[part])
        return result

    def _failed(self, wrong: str, got: object) -> RewardResult:
        if wrong not in self._logged:
            self._logged.add(wrong)
            logger.error("reward.function: %s; got %s; the sample is masked; this is logged once", wrong, got)
        return failed_result(f"{wrong}; got {got}")


def failed_result(reason: str) -> RewardResult:
    """The result of a sample that could not be scored. Its numbers mean nothing: `failed` masks the sample."""
    return RewardResult(score=0.0, accuracy=0.0, parts={}, failed=reason)


def check_self_test(
    items: Sequence[RewardInput], results: Sequence[RewardResult], part_weights: Collection[str], remedy: str
) -> None:
    """Judges a reward by its results for a few real items, before a run starts. Raises ConfigError if all of them
    failed, and as `check_parts` does. remedy: what to do if all failed.
    """
    plugin.self_test("reward.function", [result.failed for result in results], remedy)
    check_parts(items, results, part_weights)


def check_parts(items: Iterable[RewardInput], results: Iterable[RewardResult], part_weights: Collection[str]) -> None:
    """Raises ConfigError if a result that has not failed lacks a part of `algorithm.part_weights`."""
    for item, result in zip(items, results, strict=True):
        missing = [part for part in part_weights if part not in result.parts]
        if missing and result.failed is None:
            raise ConfigError(
                f"algorithm.part_weights: the reward of data_source {item.data_source!r} has no part "
                f"{', '.join(missing)}; got {', '.join(sorted(result.parts)) or 'none'}; name parts that it has"
            )
