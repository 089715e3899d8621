"""A reward pool that is closed while another thread scores, without worker processes."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Any

import pytest

from mars import watchdog
from mars.errors import WorkerError
from mars.rewards.batch import Batch
from mars.rewards.contract import failed_result
from mars.rewards.local import Scored
from mars.rewards.pool import RewardPool
from mars.watchdog import Watchdog
from tests.builders import make_item

WAIT_S = 20.0


def test_closing_it_beside_a_thread_that_scores_ends_that_and_writes_to_no_other_file():
    """The descriptors of the pool may be another file's once it is closed."""
    pool = RewardPool("grounding", "strict", 0, 1.0)
    begun, closed, raised = threading.Event(), threading.Event(), []

    def items():
        begun.set()
        assert closed.wait(WAIT_S)
        yield from ()

    def score():
        with pytest.raises(WorkerError, match="the reward pool was closed while it scored"):
            pool.score(items())
        raised.append(True)

    thread = threading.Thread(target=score)
    thread.start()
    assert begun.wait(WAIT_S)
    pool.close()
    read, write = os.pipe()  # gets the same descriptors
    os.set_blocking(read, False)
    closed.set()
    thread.join(WAIT_S)
    with suppress(BlockingIOError):
        assert os.read(read, 1) == b"", "the pool has written to another file"
    os.close(read)
    os.close(write)
    assert raised == [True]
    assert "rewards" not in {thread.name for thread in threading.enumerate()}
    pool.close()


def test_closing_it_while_another_thread_ends_scoring(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call that scores ends between two looks at it."""
    ended = threading.Thread()
    ended.start()
    found: list[Any] = [(Batch(), ended)]

    class Serving:
        def __get__(self, pool: RewardPool, kind: type) -> Any:
            return found.pop() if found else None

        def __set__(self, pool: RewardPool, value: Any) -> None:
            pass

    pool = RewardPool("grounding", "strict", 0, 1.0)
    monkeypatch.setattr(RewardPool, "_serving", Serving(), raising=False)
    pool.close()
    with pytest.raises(ValueError, match="the reward pool is closed"):
        pool.score([])


def test_each_answer_that_is_scored_or_fails_is_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    watching = Watchdog(3.0, lambda: now[0])
    monkeypatch.setattr(watchdog, "_watching", watching)
    batch = Batch()
    for _ in range(3):
        batch.add(make_item("an answer"))
    now[0] = 2.0
    batch.finish(0, [Scored(failed_result("raised"))])
    now[0] = 4.0
    batch.fail(1, "timed out")
    now[0] = 6.0
    assert not watching.overdue()
    now[0] = 7.5
    assert watching.overdue()
