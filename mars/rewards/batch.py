"""The answers of one call of `RewardPool.score`: what is still to send, and the results."""

from __future__ import annotations

from collections import deque
from multiprocessing.reduction import ForkingPickler

from mars.rewards.local import Scored, describe_error
from mars.types import RewardInput

# An answer whose worker died is tried once more, because the machine may be the cause (out of memory).
_ATTEMPTS = 2


class Batch:
    """The items of one call of `RewardPool.score` and their results.

    Two threads share it without a lock. The caller uses `add` and the flags until the serving thread has ended; the
    serving thread uses the rest.

    pending: indices of the items still to send. suspects: of the items whose worker died or was stuck with them.
    complete: no more items come. abandoned: the caller no longer waits. error: what ended the serving thread.
    """

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.pending: deque[int] = deque()
        self.complete = self.abandoned = False
        self.error: BaseException | None = None
        self.suspects: set[int] = set()
        self._deaths: list[int] = []
        self._scored: list[Scored | None] = []
        self._num_added = self._num_finished = 0

    @property
    def is_open(self) -> bool:
        return not self.abandoned and not (self.complete and self._num_finished == self._num_added)

    def add(self, item: RewardInput) -> None:
        index = len(self.payloads)
        self.payloads.append(b"")
        self._deaths.append(0)
        self._scored.append(None)
        try:
            self.payloads[index] = bytes(ForkingPickler.dumps(item))
        except Exception as error:  # noqa: BLE001 pickling a foreign object may fail in any way; it is reported
            self._scored[index] = describe_error(error)
        else:
            self._num_added += 1
            self.pending.append(index)

    def charge(self, index: int) -> bool:
        """Counts that a worker died while scoring this answer. True if the answer must not be tried again."""
        self.suspects.add(index)
        self._deaths[index] += 1
        return self._deaths[index] >= _ATTEMPTS

    def finish(self, index: int, scored: Scored) -> None:
        self._scored[index] = scored
        self._num_finished += 1

    @property
    def scored(self) -> list[Scored]:
        return [scored for scored in self._scored if scored is not None]
