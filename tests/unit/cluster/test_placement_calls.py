"""How often a placement asks Ray about nodes and reserved resources. The resources themselves are in tests/clusters."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mars.cluster import placement as module
from mars.cluster.layout import Layout, WorkerResources
from mars.cluster.node_plan import Amount
from mars.cluster.nodes import Node
from mars.cluster.placement import NodeChoice, Placement
from mars.cluster.recent import Recent

NUM = 60


class Ray:
    """Nodes of two CPUs each, and the groups that are reserved on them, under a clock of its own."""

    def __init__(self, monkeypatch) -> None:
        self.now, self.calls = 0.0, 0
        self.alive, self.table = ["n0", "n1"], {}
        monkeypatch.setattr(module, "alive_nodes", self.alive_nodes)
        monkeypatch.setattr(module, "placement_group", self.placement_group)
        monkeypatch.setattr(module, "placement_group_table", self.placement_group_table)
        monkeypatch.setattr(module, "Recent", lambda ask, age: Recent(ask, age, lambda: self.now))

    def alive_nodes(self, by_gpus):
        self.calls += 1
        size = Amount.of({"CPU": NUM / 2})
        return [Node(name, name, size, size, 0) for name in self.alive]

    def placement_group(self, sizes, *options, **more):
        number = f"{len(self.table):02x}"
        self.table[number] = {"state": "PENDING", "bundles_to_node_id": {}}
        return SimpleNamespace(id=bytes.fromhex(number), wait=lambda seconds: True)

    def placement_group_table(self, group=None):
        self.calls += 1
        return dict(self.table) if group is None else self.table[group.id.hex()]

    def grant(self, node):
        for group in self.table.values():
            group.update(state="CREATED", bundles_to_node_id={0: node})


@pytest.fixture
def ray(monkeypatch):
    return Ray(monkeypatch)


@pytest.fixture
def placement(ray):
    """Of sixty ranks, of which those of node n1 have just lost it."""
    ranks = tuple(WorkerResources(f"actor-{i}", 1.0, 0) for i in range(NUM))
    placement = Placement(Layout((), ranks, (), tuple(range(NUM))), NodeChoice(), 60.0)
    for bundle in range(NUM):
        placement.scheduling(bundle)
    assert ray.calls <= 3, "one question for all workers that start together"
    ray.alive, ray.now, ray.calls = ["n0"], 10.0, 0
    return placement


def lost(placement):
    return [bundle for bundle, node in placement._nodes.items() if node == "n1"]


def test_workers_that_wait_for_room_ask_once_for_all_of_them(ray, placement):
    bundles = lost(placement)
    assert len(bundles) == NUM / 2
    assert not any(placement.has_room(bundle) for bundle in bundles)
    assert ray.calls <= 2
    ray.now += 1
    assert not any(placement.has_room(bundle) for bundle in bundles)
    assert ray.calls <= 4


def test_a_worker_that_has_room_now_is_let_go_on_soon(ray, placement):
    first, *_ = lost(placement)
    assert not placement.has_room(first)
    ray.alive.append("n2")
    ray.grant("n2")
    ray.now += 0.6
    assert placement.has_room(first)
    placement.may_start_on = lambda node, bundle: False
    assert not placement.has_room(first)


def test_a_worker_is_not_let_go_on_by_an_old_answer(ray, placement):
    first, *_ = lost(placement)
    placement.has_room(first)
    ray.alive.append("n2")
    ray.grant("n2")
    ray.now += 0.6
    assert placement.has_room(first)
    ray.alive.remove("n2")  # at once: the answers are fresh
    assert not placement.has_room(first)
    other = next(bundle for bundle in range(NUM) if placement._nodes[bundle] == "n0")
    ray.alive.remove("n0")
    assert not placement.has_room(other), "it is moved first, and has no room yet"
