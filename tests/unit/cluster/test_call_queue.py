"""The calls of a worker: how many are under way, and when the next one is made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.cluster.call_queue import CallQueue


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
