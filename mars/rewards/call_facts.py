"""For code that a reward function uses, such as a judge: the time that the call has left, and counts for metrics."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)
_counts: Counter[str] = Counter()
_lock = threading.Lock()


@contextmanager
def call_lasting(timeout_s: float) -> Iterator[None]:
    """The block is one call of a reward function, with a deadline after `timeout_s` seconds. Only notes the deadline,
    for `seconds_left`; the call is ended elsewhere (mars/rewards/pool.py)."""
    token = _deadline.set(time.monotonic() + timeout_s)
    try:
        yield
    finally:
        _deadline.reset(token)


def seconds_left() -> float | None:
    """Seconds until the deadline of this thread's call; None outside a call, and in threads that a call starts."""
    deadline = _deadline.get()
    return None if deadline is None else deadline - time.monotonic()


def count(name: str, amount: float = 1) -> None:
    """Adds to a metric of the step (docs/metrics.md), from any thread of a reward process."""
    with _lock:
        _counts[name] += amount


def taken_counts() -> dict[str, float]:
    """What was counted since this function was last called."""
    with _lock:
        taken = dict(_counts)
        _counts.clear()
    return taken
