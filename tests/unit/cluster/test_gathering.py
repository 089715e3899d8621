"""Samples that wait for the next message of their worker."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mars.cluster.gathering import Gathering, message_gap_s

arrivals = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=30)


def messages_of(arrivals, gap_s):
    """(time, items) of each message. arrivals: seconds since the last one, number of items."""
    now, number, sent = 0.0, 0, []
    gathering = Gathering(gap_s, lambda: now)
    for seconds, items in arrivals:
        now += seconds
        due = gathering.due(list(range(number, number + items)))
        number += items
        if due:
            sent.append((now, due))
    return sent, gathering.rest(), number


@given(arrivals, st.integers(0, 9))
def test_every_item_is_sent_once_in_order_and_messages_keep_their_distance(arrivals, gap_s):
    sent, rest, number = messages_of(arrivals, gap_s)
    assert [item for _, items in sent for item in items] + rest == list(range(number))
    times = [time for time, _ in sent]
    assert all(later - earlier >= gap_s for earlier, later in pairwise(times))


@given(arrivals)
def test_a_single_engine_sends_what_it_has_at_once(arrivals):
    sent, rest, _ = messages_of(arrivals, message_gap_s(1))
    assert [len(items) for _, items in sent] == [items for _, items in arrivals if items]
    assert rest == []


def test_all_engines_together_send_a_hundred_messages_a_second():
    assert [num / message_gap_s(num) for num in (101, 1001)] == [101, 100.1]
