"""The ledgers of supervision: what they count and leave out, and the shares computed from them, by hand."""

from __future__ import annotations

import json
import threading
import time
from types import SimpleNamespace

import pytest

from scripts.bench.ledger import COUNTED, WARM_UP, Hook, Ledger, kind, watchers_seconds
from scripts.bench.supervision import TARGET, report

BEFORE_PAIRS = WARM_UP + COUNTED


def test_steps_with_and_without_take_turns_in_going_first():
    kinds = [kind(step) for step in range(1, BEFORE_PAIRS + 7)]
    assert kinds[:BEFORE_PAIRS] == ["warm_up"] * WARM_UP + ["counted"] * COUNTED
    assert kinds[BEFORE_PAIRS:] == ["with", "without", "without", "with", "with", "without"]


def test_a_ledger_counts_calls_and_leaves_hooks_out_where_it_can(tmp_path):
    made: list[str] = []
    mars = SimpleNamespace(point=made.append, deadline=made.append)
    hooks = (
        Hook("points", ((mars, "point"),), lambda: None, lambda name: made.append("stub")),
        Hook("deadlines", ((mars, "deadline"),), lambda: None, None),
    )
    ledger = Ledger(hooks, tmp_path / "driver.json")
    for step in range(BEFORE_PAIRS + 3):
        ledger.turn()
        for _ in range(step):
            mars.point("point")
        mars.deadline("deadline")
    ledger.turn()
    written = json.loads((tmp_path / "driver.json").read_text())
    assert set(written["seconds_per_call"]) == {"points", "deadlines"}
    steps = written["steps"]
    assert [step["kind"] for step in steps] == [kind(number) for number in range(1, BEFORE_PAIRS + 4)]
    assert all(step["wall"] > 0 and step["cpu"] > 0 for step in steps)
    for number, step in enumerate(steps):
        counted = WARM_UP <= number < BEFORE_PAIRS
        assert step["calls"] == ({"points": number, "deadlines": 1} if counted else {})
    assert made.count("stub") == BEFORE_PAIRS + 1 + BEFORE_PAIRS + 2  # of the two last steps
    assert made.count("point") == sum(range(BEFORE_PAIRS + 1))
    assert made.count("deadline") == BEFORE_PAIRS + 3


def test_the_processor_time_of_a_watching_thread_is_its_own():
    worked, over = threading.Barrier(3, timeout=30), threading.Event()

    def work():
        while time.thread_time() < 0.005:
            pass
        worked.wait()
        over.wait(timeout=30)

    threads = [threading.Thread(target=work, name=name) for name in ("watchdog", "another")]
    for thread in threads:
        thread.start()
    worked.wait()
    found = watchers_seconds()
    over.set()
    for thread in threads:
        thread.join()
    assert list(found) == ["watchdog"]
    assert 0.005 <= found["watchdog"] < 0.1


def step(kind, wall, cpu=1.0, watchers=None, **calls):
    return {"kind": kind, "wall": wall, "cpu": cpu, "watchers": watchers or {}, "calls": calls}


def test_the_share_is_that_of_all_processes_and_of_the_watching_threads():
    driver = [
        step("warm_up", 9.0, points=1000),
        step("counted", 3.0, points=90, beats=10),
        step("counted", 3.0, points=110),
        step("with", 2.2, 1.0, {"ray-head": 0.002}),
        step("without", 2.0, 1.0, {"ray-head": 0.004}),
        step("without", 2.0, 1.0, {"ray-head": 0.001}),
        step("with", 1.8, 1.2, {"ray-head": 0.001}),
        step("with", 1.8, 7.0),  # the run ended within a pair
    ]
    engine = [step("counted", 1.0, points=4), *(step(kind, 1.0, cpu) for kind, cpu in
              (("with", 3.0), ("without", 3.0), ("without", 4.0), ("with", 4.3)))]  # fmt: skip
    found = report(
        {
            "driver": {"seconds_per_call": {"points": 1e-5, "beats": 4e-5}, "steps": driver},
            "engine-0": {"seconds_per_call": {"points": 5e-5, "beats": 1.0}, "steps": engine},
        }
    )
    assert found["calls_per_step"] == {"driver": {"points": 100, "beats": 5}, "engine-0": {"points": 4}}
    assert found["microseconds_per_call"]["driver"] == pytest.approx({"points": 10, "beats": 40})
    assert found["milliseconds_of_calls_per_step"] == pytest.approx(1 + 0.2 + 0.2)
    assert found["watching_threads_share_of_time"] == pytest.approx({"ray-head": 0.008 / 9.8})
    assert (found["seconds_per_step"], found["cpu_seconds_per_step"]) == (1.8, pytest.approx(1.1 + 3.65))
    supervising = 0.0014 + 1.8 * 0.008 / 9.8
    assert found["share_of_step"] == {"value": pytest.approx(supervising / 1.8), "target": TARGET, "met": True}
    assert found["share_of_cpu"]["value"] == pytest.approx(supervising / 4.75)
    wall, of_driver, of_engine = found["milliseconds_with_minus_without"].values()
    assert (wall["pairs"], wall["median"], wall["mean"]) == (2, pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-9))
    assert wall["standard_error"] == pytest.approx(200)  # 200 and -200: a deviation of 200 sqrt(2) over sqrt(2) pairs
    assert (of_driver["mean"], of_engine["mean"]) == (pytest.approx(100), pytest.approx(150))
