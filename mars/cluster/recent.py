"""A cached answer that is kept for a short time, so that many callers share one request."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class Recent(Generic[Answer]):
    """The answer of `ask`, at most max_age_s old. clock: seconds, monotonic.

    >>> now, answers = 0.0, iter("abc")
    >>> recent = Recent(lambda: next(answers), max_age_s=1.0, clock=lambda: now)
    >>> recent.get(), recent.get()
    ('a', 'a')
    >>> now = 1.5
    >>> recent.get()
    'b'
    >>> recent.drop()
    >>> recent.get()
    'c'
    """

    def __init__(
        self, ask: Callable[[], Answer], max_age_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask, self._max_age_s, self._clock = ask, max_age_s, clock
        self._kept: tuple[float, Answer] | None = None

    def get(self) -> Answer:
        if self._kept is None or self._clock() - self._kept[0] > self._max_age_s:
            self._kept = self._clock(), self._ask()
        return self._kept[1]

    def drop(self) -> None:
        """Drop the cached answer, so that the next `get` asks again."""
        self._kept = None
