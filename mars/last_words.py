"""What is written before a thread ends the process: why it ends, to the run's events and to the terminal.

`except` and `finally` of the main thread do not run then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from mars.errors import MarsError

LIMIT_S = 2.0
"""Longest time that everything may take together. It takes milliseconds unless a disk or a terminal hangs."""

_records: list[Callable[[MarsError, int], None]] = []


@contextmanager
def recorded(record: Callable[[MarsError, int], None]) -> Iterator[None]:
    """If a thread ends the process during the block, call `record` before that, in a thread of its own.

    record: gets why the process ends, and its exit code.
    """
    _records.append(record)
    try:
        yield
    finally:
        _records.remove(record)


def say(error: MarsError, exit_code: int, report: Callable[[MarsError], None] | None) -> None:
    """Call every `record` and, if given, `report`. Returns when all have returned, or after `LIMIT_S`."""
    words = [partial(record, error, exit_code) for record in _records]
    if report is not None:
        words.append(partial(report, error))
    # In threads, because a disk may hang, and a terminal that is stopped takes no text.
    threads = [threading.Thread(target=word, daemon=True) for word in words]
    for thread in threads:
        thread.start()
    end = time.monotonic() + LIMIT_S
    for thread in threads:
        thread.join(max(end - time.monotonic(), 0.0))
