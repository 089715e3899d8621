"""The calls of a worker: how many are under way, and when the next one is made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.cluster.call_queue import CallQueue, Deadlines, left_by_none


@given(st.integers(0, 9))
def test_the_next_call_is_under_way_and_no_other(number):
    made, ended = [], []
    queue = CallQueue(lambda argument: made.append(argument) or f"stream {argument}", range(number))
    while queue.stream is not None:
        assert queue.stream == f"stream {len(ended)}", "calls are answered in their order"
        assert made == list(range(min(len(ended) + 2, number)))
        ended.append(queue.stream)
        queue.ended()
    assert len(ended) == number


def test_arguments_are_taken_when_they_are_needed():
    taken = []
    queue = CallQueue(str, (taken.append(i) or i for i in range(5)))
    assert taken == [0, 1]
    queue.ended()
    assert taken == [0, 1, 2]


def test_no_call_ends_that_was_not_made():
    with pytest.raises(IndexError):
        CallQueue(str, []).ended()


def test_calls_that_have_not_ended_when_their_caller_leaves_are_cancelled():
    """Those of a queue that has ended are not, nor those that were replaced."""
    cancelled = []

    def leave():
        queues = [CallQueue(str, range(3)), CallQueue(str, [7]), CallQueue(str, [8])]
        with left_by_none(queues, lambda i, streams: cancelled.append((i, streams))):
            queues[0].ended()
            queues[1].ended()
            queues[2] = CallQueue(str, [9])
            raise KeyError("of the block")

    with pytest.raises(KeyError, match="of the block"):
        leave()
    assert cancelled == [(0, ["1", "2"]), (2, ["9"])]


def test_a_worker_is_late_counted_from_its_last_answer_by_hand():
    clock = [100.0]
    deadlines = Deadlines(3, 60.0, now=lambda: clock[0])
    assert deadlines.first([0, 1, 2])[1] == 160.0
    clock[0] = 110.0
    deadlines.answered(0)
    assert deadlines.first([0, 1]) == (1, 160.0)
    assert deadlines.first([0]) == (0, 170.0)


def test_time_in_which_the_driver_does_something_else_makes_no_worker_late_by_hand():
    clock = [100.0]
    deadlines = Deadlines(2, 60.0, now=lambda: clock[0])
    clock[0] = 110.0
    deadlines.answered(0)
    with deadlines.elsewhere():
        clock[0] = 1110.0
    assert deadlines.first([0, 1]) == (1, 1160.0), "it had 50 s left"
    clock[0] = 1120.0
    deadlines.answered(1)
    assert deadlines.first([0, 1]) == (0, 1170.0)
    assert deadlines.first([1]) == (1, 1180.0)
