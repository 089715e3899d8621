"""A reward pool that is closed while another thread scores, without worker processes."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

import pytest

from mars.errors import WorkerError
from mars.rewards.pool import RewardPool

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
