"""Scoring in this process, without deadlines: of one answer, or of a stream of answers."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mars.errors import DataError
from mars.rewards.contract import RewardFn, RewardListFn, ScorerName, failed_result
from mars.rewards.functions import RewardSpec, load_reward
from mars.types import RewardInput, RewardResult

_MAX_REASON_CHARS = 300
_MAX_TRACEBACK_CHARS = 8000
_MAX_BAD_ROWS = 20


@dataclass(frozen=True)
class Scored:
    """One scored answer. After an exception, `kind` is its type and place.

    bad_row: whether the row is malformed (DataError). Then `kind` is the whole reason, with the row's id if it has one.
    """

    result: RewardResult
    kind: str = ""
    traceback: str = ""
    bad_row: bool = False


def score_one(reward: RewardFn, item: RewardInput) -> Scored:
    """Calls `reward`; whatever it raises but KeyboardInterrupt becomes a failed result with the exception's text."""
    try:
        return _with_short_reason(reward(item))
    except KeyboardInterrupt:
        raise
    except DataError as error:
        return _bad_row(error, item)
    except BaseException as error:  # noqa: BLE001 a user's function may raise anything, SystemExit too; it is reported
        return describe_error(error)


def score_list(reward: RewardListFn, items: Sequence[RewardInput]) -> list[Scored]:
    """As `score_one`, for all answers to a prompt. What `reward` raises becomes the failure of each of them."""
    try:
        return [_with_short_reason(result) for result in reward(items)]
    except KeyboardInterrupt:
        raise
    except DataError as error:
        return [_bad_row(error, items[0])] * len(items)
    except BaseException as error:  # noqa: BLE001 as in `score_one`
        return [describe_error(error)] * len(items)


def _bad_row(error: DataError, item: RewardInput) -> Scored:
    """The failed result of a malformed row, without a traceback, because the row is wrong and not the function."""
    name = item.extra_info.get("id")
    row = f"row {name}: " if isinstance(name, str | int) else ""
    reason = _printable(f"DataError: {row}{error}".replace("\n", " "))[:_MAX_REASON_CHARS]
    return Scored(failed_result(reason), reason, bad_row=True)


def _with_short_reason(result: RewardResult) -> Scored:
    if result.failed is not None:
        result = failed_result(_printable(result.failed)[:_MAX_REASON_CHARS])
    return Scored(result)


def describe_error(error: BaseException) -> Scored:
    """The failed result of an exception. Unprintable characters are escaped: the text may quote a model."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    reason = _printable("".join(traceback.format_exception_only(error)).strip().replace("\n", " "))
    text = "\n".join(map(_printable, "".join(traceback.format_exception(error)).splitlines()))
    return Scored(
        failed_result(reason[:_MAX_REASON_CHARS]), f"{type(error).__name__} {place}", text[-_MAX_TRACEBACK_CHARS:]
    )


class FailureLog:
    """Logs each kind of failure once, with the traceback if there is one.

    Each malformed row is a kind of its own; after the first 20 of them, one message says that more are malformed.
    """

    def __init__(self, logger: logging.Logger, spec: RewardSpec) -> None:
        self._logger = logger
        self._spec = spec
        self._seen: set[str] = set()
        self._bad_rows = 0

    def note(self, scored: Scored) -> None:
        reason = scored.result.failed
        if reason is None:
            return
        kind = scored.kind or reason.partition(";")[0]
        if kind in self._seen or (scored.bad_row and self._bad_rows > _MAX_BAD_ROWS):
            return
        self._seen.add(kind)
        self._bad_rows += scored.bad_row
        if scored.bad_row and self._bad_rows > _MAX_BAD_ROWS:
            reason = "more rows are malformed, and only counted"
        text = f"reward.function {self._spec}: {reason}; the sample is masked; this is logged once"
        self._logger.error("\n".join(filter(None, (text, scored.traceback))))


class LocalScorer:
    """Scores one answer after another in this process, with the same results as `RewardPool` but without deadline.

    Used for tests, debugging and built-in rewards."""

    def __init__(self, spec: RewardSpec, scorer: ScorerName) -> None:
        self._reward = load_reward(spec, scorer)
        self._failures = FailureLog(logging.getLogger(__name__), spec)

    def score(self, items: Iterable[RewardInput]) -> list[RewardResult]:
        results = []
        for item in items:
            scored = score_one(self._reward, item)
            self._failures.note(scored)
            results.append(scored.result)
        return results

    def close(self) -> None:
        """Does nothing."""


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
