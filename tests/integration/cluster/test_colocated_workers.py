"""Engines and ranks on the same GPUs, without a running Ray: who gets which, and what happens to a lost engine."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mars.cluster.layout import WorkerResources, gpus_of_engines, layout
from mars.cluster.ray_engine import RayEngine
from mars.cluster.weights import StoredWeights
from mars.errors import WorkerError
from mars.types import RolloutRequest, Sampling, WeightUpdate
from tests.fakes.places import OneNode


def test_with_gpus_of_their_own_every_worker_has_a_bundle_by_hand():
    plan = layout(2, 4, 3, cpus=0.5, on_gpu=True, shared=False)
    assert plan.bundles == [
        [WorkerResources("engine-0", 0.5, 4)], [WorkerResources("engine-1", 0.5, 4)],
        [WorkerResources("actor-0", 0.5, 1)], [WorkerResources("actor-1", 0.5, 1)],
        [WorkerResources("actor-2", 0.5, 1)],
    ]  # fmt: skip
    assert [worker.gpus for worker in (*plan.engines, *plan.ranks)] == [4, 4, 1, 1, 1]
    on_cpu = layout(1, 1, 1, cpus=1.0, on_gpu=False, shared=False)
    assert [bundle[0].gpus for bundle in on_cpu.bundles] == [0, 0]
    assert layout(1, 2, 0, cpus=0.5, on_gpu=True, shared=False).bundles == [[WorkerResources("engine-0", 0.5, 2)]]


def test_shared_gpus_belong_to_the_ranks_and_an_engine_sees_those_of_its_own_bundle_by_hand():
    plan = layout(2, 2, 4, cpus=0.5, on_gpu=True, shared=True)
    names = [[worker.name for worker in bundle] for bundle in plan.bundles]
    assert names == [["engine-0", "actor-0", "actor-1"], ["engine-1", "actor-2", "actor-3"]]
    assert [sum(worker.gpus for worker in bundle) for bundle in plan.bundles] == [2, 2]
    assert [worker.gpus for worker in plan.engines] == [0, 0]
    assert (list(plan.engine_bundles), list(plan.rank_bundles)) == ([0, 1], [0, 0, 1, 1])
    # On two nodes both bundles may have GPUs of the same numbers.
    assert gpus_of_engines([["1"], ["0"], ["1"], ["0"]], plan) == [["0", "1"], ["0", "1"]]
    assert gpus_of_engines([["3"], ["7"], ["1"], ["0"]], plan) == [["3", "7"], ["0", "1"]]
    assert gpus_of_engines([[], []], layout(2, 1, 2, cpus=0.5, on_gpu=False, shared=True)) == [[], []]


class Group(OneNode):
    """A worker group whose calls are done when they are made. calls: (engine, method), in order.

    fails: (engine, method) of calls that fail, each once.
    """

    def __init__(self, num_engines, fails=()):
        self.calls, self.fails = [], list(fails)
        self.workers = [self.worker(i) for i in range(num_engines)]

    def worker(self, index):
        def method(name):
            def call(*arguments):
                self.calls.append((index, name, *arguments) if name == "see_gpus" else (index, name))
                if (index, name) in self.fails:
                    self.fails.remove((index, name))
                    return WorkerError(f"engine-{index} is lost")
                return None

            return SimpleNamespace(remote=call)

        return SimpleNamespace(
            **{n: method(n) for n in ("build", "see_gpus", "sleep", "wake", "load_weights", "prefetch")}
        )

    def name(self, index):
        return f"engine-{index}"

    def end(self, index):
        self.calls.append((index, "end"))

    def start(self, index):
        self.calls.append((index, "start"))

    def results(self, references, call, timeout_s=None, first=0):
        return list(references)

    def outcomes(self, calls, call, failed=None, meanwhile=None):
        return dict(calls)


def asleep_and_awake(fails):
    """A turn of the trainer between two generations; returns what was called, and what was reported."""
    group, reports, now = Group(2, fails), [], [["0", "1"], ["2", "3"]]
    engine = RayEngine(
        group, lambda request: 1, 64, 60.0, lambda event, worker, reason: reports.append((event, worker))
    )
    engine.finish_build(engine.start_build(None, None, None, lambda: now), 1.0)
    now[1] = ["6", "7"]  # the node was lost, and Ray has moved the ranks
    group.calls.clear()
    engine.sleep()
    engine.prefetch([RolloutRequest(name, None, (1,), (), 1, 0, Sampling(1.0, 1.0, 0, 6)) for name in "ab"])
    engine.load_weights(WeightUpdate(1, StoredWeights("new")))
    engine.wake()
    return group.calls, reports


REBUILT = [(1, "start"), (1, "see_gpus", ["6", "7"]), (1, "build"), (1, "load_weights")]


def test_engines_sleep_and_wake_together_by_hand():
    calls, reports = asleep_and_awake([])
    assert calls == [(i, call) for call in ("sleep", "prefetch", "load_weights", "wake") for i in (0, 1)]
    assert reports == []


@pytest.mark.parametrize("call", ["sleep", "prefetch", "load_weights", "wake"])
def test_an_engine_that_is_lost_while_it_sleeps_is_built_when_the_trainer_has_left(call):
    """Its process is ended at once. Until the others wake, nothing is asked of it and nothing takes GPU memory."""
    calls, reports = asleep_and_awake([(1, call)])
    order = ["sleep", "prefetch", "load_weights", "wake"]
    before = [(i, c) for c in order for i in (0, 1) if i == 0 or order.index(c) <= order.index(call)]
    ended = before.index((1, call)) + 1
    assert calls == [*before[:ended], (1, "end"), *before[ended:], *REBUILT]
    assert reports == [("worker_lost", "engine-1"), ("worker_replaced", "engine-1")]
