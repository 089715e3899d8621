"""Samples that wait for the next message of their worker."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from mars.cluster.engine_worker import EngineWorker
from mars.cluster.gathering import Gathering, message_gap_s
from mars.rollout.engine import EngineCounts
from mars.rollout.window import Part

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


def test_all_engines_together_send_forty_messages_a_second():
    assert [(num - 1) / message_gap_s(num) for num in (2, 65, 201)] == [40, 40, 40]


def test_with_many_engines_a_sample_waits_five_seconds_unless_all_would_send_more_than_a_hundred_messages_a_second():
    assert [message_gap_s(num) for num in (202, 401, 501, 601, 1001)] == [5, 5, 5, 6, 10]


def test_messages_keep_their_distance_from_one_part_of_a_call_to_the_next():
    """Each part would send at once otherwise, and a share of many parts as many messages."""

    def generate(feed):
        for request in feed:
            yield [] if request is None else [request.number]

    worker = object.__new__(EngineWorker)
    worker._engine = SimpleNamespace(generate=generate, counts=EngineCounts)
    requests = [SimpleNamespace(images=(), number=i) for i in range(6)]
    for _ in range(2):
        parts = [Part(requests[i : i + 2], i == 0, i == 4, message_gap_s=1e9) for i in (0, 2, 4)]
        assert [list(worker.generate(part)) for part in parts] == [[[0]], [], [[1, 2, 3, 4, 5], EngineCounts()]]
