from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.report.plots import _STAGE_COLOURS
from mars.tracking import timer as timer_module
from mars.tracking.timer import STAGES, StepTimer
from tests.examples import examples


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_every_stage_that_a_step_opens_is_shown() -> None:
    """By the step's line, `mars watch` and the report, which has a colour for it."""
    opened = re.compile(r'(?:timer\.(?:stage|during)|partial\(timer\.stage,)[( ]"(\w+)"')
    sources = [path.read_text(encoding="utf-8") for path in Path(timer_module.__file__).parents[1].glob("*.py")]
    found = {name for source in sources for name in opened.findall(source)}
    assert {"gen", "signals", "wait_rollouts"} <= found <= set(STAGES)
    assert {*STAGES, "driver"} == set(_STAGE_COLOURS)


def test_stages_and_driver_add_up_to_the_step() -> None:
    clock = Clock()
    timer = StepTimer(clock)
    clock.now += 1  # driver
    with timer.stage("gen"):
        clock.now += 5
    clock.now += 2  # driver
    with timer.stage("reward"):
        clock.now += 2
    assert timer.metrics() == {
        "timing_s/gen": 5,
        "timing_s/reward": 2,
        "timing_s/driver": 3,
        "timing_s/step": 10,
        "perf/driver_share": 0.3,
    }


def test_repeated_stages_add_and_nested_time_belongs_to_the_inner_stage() -> None:
    clock = Clock()
    timer = StepTimer(clock)
    with timer.stage("gen"):
        clock.now += 1
        with timer.stage("reward"):
            clock.now += 2
            with timer.stage("gen"):
                clock.now += 4
        clock.now += 8
    with timer.stage("reward"):
        clock.now += 16
    metrics = timer.metrics()
    assert (metrics["timing_s/gen"], metrics["timing_s/reward"], metrics["timing_s/driver"]) == (13, 18, 0)
    assert metrics["timing_s/step"] == 31


def test_a_stage_that_raises_is_counted_and_closed() -> None:
    clock = Clock()
    timer = StepTimer(clock)

    def generate() -> None:
        with timer.stage("gen"):
            clock.now += 3
            raise RuntimeError

    with pytest.raises(RuntimeError):
        generate()
    clock.now += 1
    assert timer.metrics() == {
        "timing_s/gen": 3,
        "timing_s/driver": 1,
        "timing_s/step": 4,
        "perf/driver_share": 0.25,
    }


def test_moved_seconds_never_exceed_their_stage() -> None:
    clock = Clock()
    timer = StepTimer(clock)
    with timer.stage("update_actor"):
        clock.now += 10
    timer.move(4, "update_actor", "old_log_prob")
    assert timer.metrics()["timing_s/update_actor"] == 6
    timer.move(100, "update_actor", "old_log_prob")
    metrics = timer.metrics()
    assert (metrics["timing_s/update_actor"], metrics["timing_s/old_log_prob"]) == (0, 10)


def test_a_step_of_no_time_has_no_driver_share() -> None:
    assert StepTimer(Clock()).metrics() == {"timing_s/driver": 0, "timing_s/step": 0, "perf/driver_share": 0}


steps = st.recursive(
    st.integers(0, 1000), lambda inner: st.tuples(st.sampled_from("abc"), st.lists(inner, max_size=3)), max_leaves=12
)


@examples(60)
@given(st.lists(steps, max_size=4))
def test_any_nesting_adds_up(plan: list) -> None:
    clock = Clock()
    timer = StepTimer(clock)
    outside = 0

    def play(item: object, depth: int) -> None:
        nonlocal outside
        if isinstance(item, int):
            clock.now += item
            outside += item if depth == 0 else 0
        else:
            name, inner = item
            with timer.stage(name):
                for part in inner:
                    play(part, depth + 1)

    for item in plan:
        play(item, 0)
    metrics = timer.metrics()
    stages = sum(value for key, value in metrics.items() if key in ("timing_s/a", "timing_s/b", "timing_s/c"))
    assert stages + metrics["timing_s/driver"] == metrics["timing_s/step"] == clock.now - 100
    assert metrics["timing_s/driver"] == outside


def test_docstring_example() -> None:
    assert doctest.testmod(timer_module).failed == 0


def test_a_stream_is_its_stage_from_its_first_item_to_its_end_whatever_is_done_in_between() -> None:
    ticks = iter([0.0, 1.0, 3.0, 8.0, 10.0, 11.0])
    timer = StepTimer(clock=lambda: next(ticks))
    stream = timer.during("gen", iter("ab"))
    with timer.stage("reward"):  # entered at 1 s
        assert next(stream) == "a"  # the stream begins at 3 s; what follows is booked with it
        assert list(stream) == ["b"]  # and ends at 8 s; the stage is left at 10 s
    metrics = timer.metrics()
    assert (metrics["timing_s/gen"], metrics["timing_s/reward"], metrics["timing_s/driver"]) == (5.0, 4.0, 2.0)
    assert metrics["timing_s/step"] == 11.0
