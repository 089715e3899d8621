"""Engine and trainer in this process: who is closed when, and how weights are named."""

from __future__ import annotations

import pytest

from mars.cluster.local import local_workers


def test_workers_are_closed_in_turn_whatever_happens():
    """The engine first, then the trainer whose process group it may share; also where building the engine fails."""
    closed = []

    class Part:
        def __init__(self, name):
            self.name = name

        def close(self):
            closed.append(self.name)

    def fails(fetch):
        raise RuntimeError("no engine")

    with local_workers("cpu", 1, lambda fetch: Part("engine"), lambda transfer: Part("trainer")) as (engine, trainer):
        assert (engine.name, trainer.name) == ("engine", "trainer")
    assert closed == ["engine", "trainer"]
    with pytest.raises(ZeroDivisionError), local_workers("cpu", 1, lambda fetch: Part("e"), lambda transfer: Part("t")):
        1 / 0  # noqa: B018
    assert closed[2:] == ["e", "t"]
    with pytest.raises(RuntimeError, match="no engine"), local_workers("cpu", 1, fails, lambda transfer: Part("alone")):
        pass
    assert closed[4:] == ["alone"]
    with local_workers("cpu", 1, lambda fetch: Part("engine"), None) as (_, trainer):
        assert trainer is None


def test_weights_reach_the_engine_by_name():
    fetched = {}

    def build(fetch):
        fetched.update(fetch({"a.weight": 1, "b.weight": 2}))
        return type("Engine", (), {"close": lambda self: None})()

    with local_workers("cpu", 1, build, None):
        pass
    assert fetched == {"a.weight": 1, "b.weight": 2}
