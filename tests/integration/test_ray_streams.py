"""Over a real Ray: streams of a worker group, with every way in which one ends early; weights in the object store."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import ray

from mars.cluster import worker_group
from mars.cluster.layout import Layout, WorkerResources
from mars.cluster.placement import NodeChoice, Placement
from mars.cluster.runtime import ray_cluster
from mars.cluster.successor import Successor, first_running
from mars.cluster.worker import Worker
from mars.cluster.worker_group import WorkerGroup
from mars.errors import DataError, WorkerError, WorkerLost
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


@pytest.fixture
def group(cluster, tmp_path):
    workers = [WorkerResources(f"counter-{i}", 0.5, 0) for i in range(2)]
    placement = Placement(Layout((), workers, (), (0, 1)), NodeChoice(), 60.0)
    made = WorkerGroup(Counter, workers, placement, [0, 1], {}, str(tmp_path), timeout_s=5.0)
    ray.get([worker.address.remote() for worker in made.workers])
    yield made
    for worker in made.workers:
        ray.kill(worker)
    placement.close()


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
