"""Gathers a worker's samples into messages, so that many workers do not send more messages than the driver can take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")

_MESSAGES_PER_SECOND = 40
"""Of all engines together. A message costs the driver, with Ray's threads, most of a millisecond of processor time, and
little more for each sample in it. In each generation an engine sends three messages more."""
_LONGEST_GAP_S = 5.0
"""Samples wait at most this long for a message, and so for their scores. They wait longer only if the engines would
otherwise send more than `_MOST_MESSAGES_PER_SECOND`."""
_MOST_MESSAGES_PER_SECOND = 100


def message_gap_s(num_engines: int) -> float:
    """Least seconds between two messages of one engine; 0 for a single engine, which never sends too many.

    With n engines it is (n - 1) / 40, but at most 5; with more than 501 engines it is (n - 1) / 100. So 201 engines
    together send about 40 messages a second at most, 501 engines and more about 100.
    """
    others = num_engines - 1
    return max(min(others / _MESSAGES_PER_SECOND, _LONGEST_GAP_S), others / _MOST_MESSAGES_PER_SECOND)


class Gathering(Generic[Item]):
    """Items that wait to be sent. clock: seconds, monotonic.

    >>> now = 0.0
    >>> gathering = Gathering(gap_s=1.0, clock=lambda: now)
    >>> gathering.due(["a"]), gathering.due(["b"])
    (['a'], [])
    >>> now = 1.0
    >>> gathering.due([]), gathering.rest()
    (['b'], [])
    """

    def __init__(self, gap_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._gap_s, self._clock = gap_s, clock
        self._sent = clock() - gap_s
        self._waiting: list[Item] = []

    def due(self, items: list[Item]) -> list[Item]:
        """Add items. If the last message is long enough ago, returns all waiting items, else []."""
        self._waiting += items
        if not self._waiting or self._clock() - self._sent < self._gap_s:
            return []
        self._sent = self._clock()
        return self.rest()

    def rest(self) -> list[Item]:
        """Returns and removes the items that still wait."""
        found, self._waiting = self._waiting, []
        return found
