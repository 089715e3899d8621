"""`Placement` when nodes are lost, with tables of resources in place of Ray: who gets the room that is left."""

from __future__ import annotations

from itertools import count

import pytest

from mars.cluster import placement
from mars.cluster.layout import layout
from mars.cluster.node_plan import Amount
from mars.cluster.nodes import Node
from mars.cluster.placement import NodeChoice, Placement


class Group:
    def __init__(self, number, sizes, homes):
        self.id, self.sizes, self.homes = number.to_bytes(4, "big"), sizes, homes

    def wait(self, timeout_s):
        return True


class Cluster:
    """gpus: free ones of each node. Requests that do not fit wait, and the oldest gets room first."""

    def __init__(self, **gpus):
        self.gpus, self.groups, self._numbers = dict(gpus), [], count()

    def nodes(self, by_gpus):
        free = {name: self._free(name) for name in self.gpus}
        order = sorted(free, key=lambda name: (-free[name], name))
        return [
            Node(n, n, Amount.of({"CPU": 99, "GPU": self.gpus[n]}), Amount.of({"CPU": 99, "GPU": free[n]}), 0)
            for n in order
        ]

    def _free(self, name):
        return self.gpus[name] - sum(
            size.get("GPU", 0)
            for group in self.groups
            for size, home in zip(group.sizes, group.homes, strict=True)
            if home == name
        )

    def reserve(self, sizes, strategy, bundle_label_selector=None, _soft_target_node_id=None):
        labels = [next(iter(each.values())) for each in bundle_label_selector or [{0: _soft_target_node_id}]]
        if bundle_label_selector is None and not (labels[0] and self._free(labels[0]) >= sizes[0].get("GPU", 0)):
            labels = [None]
        self.groups.append(Group(next(self._numbers), sizes, labels))
        return self.groups[-1]

    def settle(self):
        """Give those that wait what is free now."""
        for group in self.groups[1:]:
            if group.homes[0] not in self.gpus:
                need = group.sizes[0].get("GPU", 0)
                group.homes = [next((name for name in self.gpus if self._free(name) >= need), None)]

    def table(self, group=None):
        self.settle()
        found = {
            each.id.hex(): {"state": "CREATED" if each.homes[0] in self.gpus else "PENDING",
                            "bundles_to_node_id": {0: each.homes[0]}}
            for each in self.groups
        }  # fmt: skip
        return found if group is None else found[group.id.hex()]

    def remove(self, group):
        self.groups.remove(group)


@pytest.fixture
def placed(monkeypatch):
    def make(cluster, plan):
        monkeypatch.setattr(placement, "_RECENT_S", -1.0)  # ask each time
        monkeypatch.setattr(placement, "alive_nodes", cluster.nodes)
        monkeypatch.setattr(placement, "placement_group", cluster.reserve)
        monkeypatch.setattr(placement, "placement_group_table", cluster.table)
        monkeypatch.setattr(placement, "remove_placement_group", cluster.remove)
        return Placement(plan, NodeChoice("spread", 1), timeout_s=1.0)

    return make


def rooms(made, order):
    """Asked in this order, twice, because Ray may give room between two questions."""
    return [{bundle: made.has_room(bundle) for bundle in order} for _ in range(2)][-1]


# Two engines and two ranks with a GPU each; spread: engine-0 and actor-0 on a, engine-1 and actor-1 on b.
ENGINE, RANK = 1, 3


@pytest.mark.parametrize("order", [(ENGINE, RANK), (RANK, ENGINE)])
def test_a_lost_rank_gets_the_room_that_is_left_and_a_lost_engine_what_is_added(order, placed):
    cluster = Cluster(a=2, b=2)
    made = placed(cluster, layout(2, 1, 2, cpus=0.5, on_gpu=True, shared=False))
    assert [bundles for _, bundles in made.homes()] == [[0, 2], [1, 3]]
    assert rooms(made, range(4)) == dict.fromkeys(range(4), True)
    del cluster.gpus["b"]
    cluster.gpus["c"] = 1
    assert rooms(made, order) == {RANK: True, ENGINE: False}
    assert len(cluster.groups) == 2, "Ray has no request of the engine"
    cluster.gpus["d"] = 1
    assert rooms(made, order) == {RANK: True, ENGINE: True}
    assert sorted(group.homes[0] for group in cluster.groups[1:]) == ["c", "d"]


@pytest.mark.parametrize("order", [(ENGINE, RANK), (RANK, ENGINE)])
def test_a_node_that_is_added_is_for_the_rank_that_waits(order, placed):
    cluster = Cluster(a=2, b=2)
    made = placed(cluster, layout(2, 1, 2, cpus=0.5, on_gpu=True, shared=False))
    del cluster.gpus["b"]
    assert rooms(made, order) == {RANK: False, ENGINE: False}
    cluster.gpus["c"] = 1
    assert rooms(made, order) == {RANK: True, ENGINE: False}


def test_an_engine_that_waits_gives_way_to_a_rank_lost_later(placed):
    cluster = Cluster(a=2, b=2)
    made = placed(cluster, layout(2, 1, 2, cpus=0.5, on_gpu=True, shared=False))
    del cluster.gpus["b"]
    cluster.gpus |= {"c": 1, "d": 1}
    assert rooms(made, (ENGINE, RANK)) == {ENGINE: True, RANK: True}
    del cluster.gpus["c"], cluster.gpus["d"]
    assert rooms(made, (ENGINE, RANK)) == {ENGINE: False, RANK: False}
    cluster.gpus["e"] = 1
    assert rooms(made, (ENGINE, RANK)) == {ENGINE: False, RANK: True}


def test_an_engine_that_is_started_all_the_same_waits_for_room(placed):
    cluster = Cluster(a=2, b=2)
    made = placed(cluster, layout(2, 1, 2, cpus=0.5, on_gpu=True, shared=False))
    del cluster.gpus["b"]
    assert made.scheduling(ENGINE).placement_group in cluster.groups[1:]


def test_engines_with_ranks_on_their_gpus_wait_like_ranks(placed):
    cluster = Cluster(a=1, b=1)
    made = placed(cluster, layout(2, 1, 2, cpus=0.5, on_gpu=True, shared=True))
    del cluster.gpus["b"]
    assert not made.has_room(1)
    assert len(cluster.groups) == 2, "Ray has its request"
    cluster.gpus["c"] = 1
    assert made.has_room(1)
