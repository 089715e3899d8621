"""What a reward function's helpers see of their call, and what they count."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from mars.rewards.call_facts import call_lasting, count, seconds_left, taken_counts


def test_the_time_that_is_left_is_that_of_the_innermost_call_of_the_thread() -> None:
    assert seconds_left() is None
    with call_lasting(1000.0):
        with call_lasting(50.0):
            assert 40 < (seconds_left() or 0) <= 50
        assert 900 < (seconds_left() or 0) <= 1000
        with ThreadPoolExecutor(1) as threads:
            assert threads.submit(seconds_left).result() is None
    assert seconds_left() is None


def test_counts_of_all_threads_are_taken_once() -> None:
    taken_counts()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(count, ["judge/requests"] * 500))
    count("judge/seconds", 0.5)
    assert taken_counts() == {"judge/requests": 500, "judge/seconds": 0.5}
    assert taken_counts() == {}
