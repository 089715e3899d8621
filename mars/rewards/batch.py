"""The answers of one call of `RewardPool.score`: what is still to send, and the results."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from multiprocessing.reduction import ForkingPickler

from mars import watchdog
from mars.rewards.contract import failed_result
from mars.rewards.local import Scored, describe_error
from mars.rewards.messages import Call
from mars.types import RewardInput

# An answer whose worker died is tried once more, because the machine may be the cause (out of memory).
_ATTEMPTS = 2


class Batch:
    """The answers of one call of `RewardPool.score` and their results.

    The workers get the answers in `Call`s, each of which is one call of the reward function for one answer or more.
    Two threads share a batch without a lock. Until the serving thread has ended, the caller of `score` uses only `add`,
    `complete`, `abandoned` and `error`; the serving thread uses everything but `add`.

    calls: all calls; a call's index is its number. pending: numbers of the calls still to send. suspects: numbers of
        calls whose worker died or hung.
    complete: no more answers come. abandoned: the caller no longer waits. error: what ended the serving thread.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.pending: deque[int] = deque()
        self.complete = self.abandoned = False
        self.error: BaseException | None = None
        self.suspects: set[int] = set()
        self._deaths: Counter[int] = Counter()
        self._answers: list[list[int]] = []  # of each call: the indices of its answers in `_scored`
        self._scored: list[Scored | None] = []
        self._num_added = self._num_finished = 0

    @property
    def is_open(self) -> bool:
        return not self.abandoned and not (self.complete and self._num_finished == self._num_added)

    def add(self, item: RewardInput | tuple[RewardInput, ...]) -> None:
        """Add an item. An answer that cannot be pickled fails; the other answers of the item become a call."""
        answers, payloads = [], []
        for answer in item if isinstance(item, tuple) else (item,):
            self._scored.append(None)
            try:
                payloads.append(bytes(ForkingPickler.dumps(answer)))
            except Exception as error:  # noqa: BLE001 pickling a foreign object may fail in any way; it is reported
                self._scored[-1] = describe_error(error)
            else:
                answers.append(len(self._scored) - 1)
        if answers:
            call = Call(len(self.calls), tuple(payloads))
            self._answers.append(answers)
            self.calls.append(call)
            self._num_added += 1
            self.pending.append(call.number)

    def charge(self, number: int) -> bool:
        """Counts that a worker died or hung during the call `number`. True if it must not be tried again."""
        self.suspects.add(number)
        self._deaths[number] += 1
        return self._deaths[number] >= _ATTEMPTS

    def finish(self, number: int, scored: Iterable[Scored]) -> None:
        watchdog.beat()  # when all samples are there, only scored answers show that the step goes on
        for answer, result in zip(self._answers[number], scored, strict=True):
            self._scored[answer] = result
        self._num_finished += 1

    def fail(self, number: int, reason: str) -> None:
        """Finishes a call whose answers all fail."""
        self.finish(number, [Scored(failed_result(reason))] * len(self._answers[number]))

    @property
    def scored(self) -> list[Scored]:
        return [scored for scored in self._scored if scored is not None]
