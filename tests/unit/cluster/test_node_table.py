"""The have/want table of a cluster, by node."""

from __future__ import annotations

import pytest

from mars.cluster.layout import WorkerResources, layout
from mars.cluster.node_plan import Amount
from mars.cluster.node_table import NodeRow, have_want, names_in_short


def row(name, cpus, gpus, free_cpus=None, free_gpus=None, used_by=()):
    total = Amount.of({"CPU": cpus, "GPU": gpus})
    free = Amount.of({"CPU": cpus if free_cpus is None else free_cpus, "GPU": gpus if free_gpus is None else free_gpus})
    return NodeRow(name, total, free, used_by)


def test_an_engine_that_is_too_large_for_every_node_by_hand():
    plan = layout(1, 4, 4, cpus=0.5, on_gpu=True, shared=False)
    nodes = [row("head (10.0.0.1)", 0, 0), row("a (10.0.0.2)", 8, 2), row("b (10.0.0.3)", 8, 2)]
    assert have_want(nodes, plan, empty=True).splitlines() == [
        "  node             CPUs free/all  GPUs free/all  would get           then left",
        "  head (10.0.0.1)  0/0            0/0            nothing             0 CPU, 0 GPU",
        "  a (10.0.0.2)     8/8            2/2            actor-0 to actor-1  7 CPU, 0 GPU",
        "  b (10.0.0.3)     8/8            2/2            actor-2 to actor-3  7 CPU, 0 GPU",
        "  no place for engine-0 (0.5 CPU, 4 GPU): no node has more than 2 GPUs",
    ]


@pytest.mark.parametrize(
    ("nodes", "empty", "reason"),
    [
        ([], True, "the cluster has no node"),
        ([row("a", 64, 2)], True, "no node has more than 2 GPUs"),
        ([row("a", 0.4, 8)], True, "no node has more than 0.4 CPUs"),
        ([row("a", 64, 2), row("b", 0.25, 8)], True, "no node has both so many CPUs and so many GPUs"),
        ([row("a", 64, 4, free_gpus=3)], False, "too little is free on each node"),
    ],
)
def test_why_a_worker_has_no_place(nodes, empty, reason):
    plan = layout(1, 4, 0, cpus=0.5, on_gpu=True, shared=False)
    assert have_want(nodes, plan, empty).splitlines()[-1] == f"  no place for engine-0 (0.5 CPU, 4 GPU): {reason}"


def test_workers_of_one_size_are_one_line():
    plan = layout(0, 1, 5, cpus=1.0, on_gpu=True, shared=False)
    lines = have_want([row("a", 8, 2)], plan, True).splitlines()
    assert lines[-1] == "  no place for actor-2 to actor-4 (1 CPU, 1 GPU each): the other workers fill the nodes"
    shared = layout(2, 2, 4, cpus=1.0, on_gpu=True, shared=True)
    lines = have_want([row("a", 8, 2)], shared, True).splitlines()
    assert "engine-0, actor-0 to actor-1" in lines[1]
    assert lines[-1] == (
        "  no place for engine-1, actor-2 to actor-3 (3 CPU, 2 GPU, 3 workers on one node): "
        "the other workers fill the nodes"
    )


def test_who_uses_a_node_is_said_in_one_line_each():
    plan = layout(0, 1, 1, cpus=1.0, on_gpu=True, shared=False)
    user = "1 CPU, 2 GPU: job 03000000 (python \x1b[2J)"
    lines = have_want([row("a", 8, 2, 7, 0, (user,)), row("b", 8, 1)], plan, False).splitlines()
    assert lines[3] == "  used on a by 1 CPU, 2 GPU: job 03000000 (python \\x1b[2J)"
    assert len(lines) == 4, "b has a place"


def test_long_tables_end():
    plan = layout(0, 1, 50, cpus=1.0, on_gpu=False, shared=False)
    lines = have_want([row(f"n{i}", 1, 0) for i in range(40)], plan, True).splitlines()
    assert lines[33] == "  and 8 more nodes"
    assert lines[34] == "  no place for actor-40 to actor-49 (1 CPU, 0 GPU each): the other workers fill the nodes"


def test_ranges_of_names():
    names = ["actor-1", "engine-0", "actor-10", "actor-2", "actor-3"]
    assert names_in_short(names) == "actor-1 to actor-3, actor-10, engine-0", "kinds in the order of the names"
    assert names_in_short([]) == ""


def test_what_a_worker_asks_ray_for():
    assert WorkerResources("engine-0", 0.5, 0).bundle() == {"CPU": 0.5}
    assert WorkerResources("engine-0", 0.5, 4).bundle() == {"CPU": 0.5, "GPU": 4}
