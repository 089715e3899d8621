"""Over a real Ray: streams of a worker group, with every way in which one ends early; weights in the object store."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from mars.background import Background, Stopped
from mars.cluster import worker_group
from mars.cluster.engine_worker import EngineWorker
from mars.cluster.layout import Layout, WorkerResources
from mars.cluster.placement import NodeChoice, Placement
from mars.cluster.ray_engine import RayEngine
from mars.cluster.runtime import ray_cluster
from mars.cluster.successor import Successor, first_running
from mars.cluster.worker import Worker
from mars.cluster.worker_group import WorkerGroup
from mars.cluster.worker_images import ImageAccess
from mars.errors import DataError, WorkerError, WorkerLost
from mars.rollout.engine import ended
from mars.rollout.scripted import ScriptedEngine
from mars.types import ImageRef, RolloutRequest, Sampling
from tests.unit.weights.contract import World, check_failures, check_updates


class Counter(Worker):
    """Yields numbers; a negative one is a fault."""

    def count(self, numbers):
        for number in numbers:
            if number == -1:
                raise DataError("gone.png: no such image")
            if number == -2:
                raise RuntimeError("the model is broken")
            if number == -3:
                os.kill(os.getpid(), signal.SIGKILL)
            if number == -4:
                time.sleep(600)
            yield number

    def close(self):
        pass


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster(None, 100 * 2**20, 2, {"PYTHONPATH": str(Path(__file__).parents[2])}):
        yield


@contextmanager
def workers_of(worker_class, name, folder, timeout_s):
    workers = [WorkerResources(f"{name}-{i}", 0.5, 0) for i in range(2)]
    placement = Placement(Layout((), workers, (), (0, 1)), NodeChoice(), 60.0)
    made = WorkerGroup(worker_class, workers, placement, [0, 1], {}, str(folder), timeout_s=timeout_s)
    ray.get([worker.address.remote() for worker in made.workers])
    yield made
    for worker in made.workers:
        ray.kill(worker)
    placement.close()


@pytest.fixture
def group(cluster, tmp_path):
    with workers_of(Counter, "counter", tmp_path, timeout_s=5.0) as made:
        yield made


def test_the_items_of_each_worker_come_in_their_order(group):
    wanted = [list(range(20)), list(range(100, 105))]
    items = list(group.streams("count", [[numbers] for numbers in wanted]))
    assert [[item for worker, item in items if worker == i] for i in (0, 1)] == wanted
    assert list(group.streams("count", [[[]], [[]]])) == []


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (-1, DataError, r"gone\.png"),
        (-2, WorkerError, "count failed on counter-0: RuntimeError: the model is broken"),
        (-3, WorkerLost, "count failed on counter-0: a worker process died"),
        (-4, WorkerLost, "no answer within 5 s"),
    ],
)
def test_what_ends_a_stream_early_has_a_name_and_what_came_before_is_there(group, fault, error, message):
    items = []

    def take_all():
        for item in group.streams("count", [[[1, 2, fault, 3]], [[]]]):
            items.append(item)

    with pytest.raises(error, match=message):
        take_all()
    sent = [(0, 1), (0, 2)]
    # A worker that dies may take with it what it has just sent.
    assert items == sent[: len(items)] if fault == -3 else items == sent


@pytest.mark.parametrize("fault", [-2, -3, -4])
def test_a_worker_that_fails_is_replaced_and_the_call_repeated_on_it(group, fault, monkeypatch):
    """Only on the worker that failed: the other one's items come once."""
    failed = []

    def recover(index, error):
        failed.append((index, str(error)))
        assert first_running({index: Successor(group, index)}, time.monotonic() + 60) == index
        arguments[index][0].remove(fault)
        return True

    arguments = [[[1, 2, fault, 3]], [[7, 8]]]
    items = list(group.streams("count", arguments, recover))
    assert [index for index, _ in failed] == [0]
    assert [number for worker, number in items if worker == 1] == [7, 8]
    of_first = [number for worker, number in items if worker == 0]
    assert of_first[-3:] == [1, 2, 3]
    assert of_first[:-3] == [1, 2][: len(of_first) - 3]


def test_a_death_of_which_ray_does_not_tell_is_seen(group, monkeypatch):
    """Ray tells of it after seconds; here never."""
    process = ray.get(group.workers[1].process.remote())
    assert group.results([worker.process.remote() for worker in group.workers], "process")[1] == process
    waiting = [worker.count.options(num_returns=1).remote([]) for worker in group.workers]
    monkeypatch.setattr(worker_group.ray, "wait", lambda references, timeout, num_returns=1: ([], references))
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(
        WorkerLost, match=rf"count failed on counter-1: a worker process died \(process {process.pid}\)"
    ):
        group.results(waiting, "count")


def test_a_thread_that_is_stopped_waits_for_no_worker(group):
    """The deadline of 5 s would end the wait too, with another error."""
    hanging = [group.workers[0].count.options(num_returns=1).remote([-4])]
    with pytest.raises(KeyError), Background(lambda: group.results(hanging, "count"), name="beside") as call:
        raise KeyError
    assert isinstance(call._error, Stopped)


def test_one_wait_serves_the_answers_of_many_workers_and_is_never_longer_than_half_a_second(group, monkeypatch):
    waits = []

    def wait(references, timeout, num_returns=1):
        waits.append((timeout, num_returns))
        return references[:1], references[1:]

    monkeypatch.setattr(worker_group.ray, "wait", wait)
    for number in (10, 1000):
        group._ready({f"reference {i}": 0 for i in range(number)}, "count", time.monotonic() + 60)
    assert waits == [(0.5, 1), (0.04, 10), (0.5, 1), (0.5, 1000)]


def test_ray_s_object_store_is_a_weight_transfer(cluster):
    one = World("object_store", 2, ray.put, ray.get)
    check_updates(one, 2)
    check_failures(one)
    one.close()


class Endless(ScriptedEngine):
    """Goes on for ever after the samples of the first request that has the seed 7."""

    def generate(self, requests):
        number = 0
        for request in requests:
            if request is None:
                yield []
                continue
            yield [replace(sample, request=number) for sample in next(super().generate([request]))]
            number += 1
            while request.seed == 7:
                time.sleep(0.01)
                yield []


def build_endless(*arguments):
    return Endless(lambda request, k: (request.seed, 1), [1])


def asked(seeds):
    image = ImageRef("a.png", (28, 28))
    return [RolloutRequest(f"p{i}", None, (5,), (image,), 1, seed, Sampling(1.0, 1.0, 0, 4))
            for i, seed in enumerate(seeds)]  # fmt: skip


@pytest.fixture(scope="module")
def engines(cluster, tmp_path_factory):
    """Two engines with windows of 4 samples, which miss the deadline if they do not end a call that was given up."""
    with workers_of(EngineWorker, "engine", tmp_path_factory.mktemp("engines"), timeout_s=20.0) as made:
        engine = RayEngine(made, lambda request: 1, 4, 60.0)
        images = ImageAccess(None, None, False, 60.0)
        engine.finish_build(engine.start_build(build_endless, lambda name: SimpleNamespace(receive=None), images), 60.0)
        yield made, engine


@pytest.mark.parametrize("fate", ["runs", "queued", "lost"])
def test_the_next_call_does_not_wait_for_one_that_was_given_up(engines, fate):
    """It is one part that runs; or one of many, with the next one in the worker's queue; or an engine is lost with it.

    A deadline that is missed would end the engine, and another one would take its place.
    """
    group, engine = engines
    restarts, images = engine.counts().restarts, engine.counts().images
    number, process = 2 if fate == "runs" else 24, ray.get(group.workers[1].process.remote())
    with ended(engine.generate(asked([7] * number))) as call:
        for _ in range(2):
            next(call)
        if fate == "lost":
            os.kill(process.pid, signal.SIGKILL)
    engine.prefetch([])
    found = [item for items in engine.generate(asked([1, 2, 3, 4])) for item in items]
    assert sorted((item.request, item.completion.token_ids) for item in found) == [(i, (i + 1, 1)) for i in range(4)]
    assert engine.counts().restarts == restarts + (fate == "lost")
    assert engine.counts().images == images + 4, "of this call only"
