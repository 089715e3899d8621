"""Where workers go on a cluster of several nodes, and what a run says if they fit nowhere."""

from __future__ import annotations

import logging
import time

import pytest
import ray
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

from mars.cluster.layout import layout
from mars.cluster.nodes import alive_nodes
from mars.cluster.placement import NodeChoice, Placement
from mars.cluster.worker import Worker
from mars.cluster.worker_group import WorkerGroup
from mars.errors import SetupError
from tests.clusters.joined import joined as join
from tests.clusters.ray_nodes import NodeSpec, ray_nodes


class Idle(Worker):
    def close(self):
        pass


@pytest.fixture(scope="module")
def nodes():
    """A head without CPUs, as on Kubernetes, and two nodes with four CPUs and two GPUs each."""
    workers = [NodeSpec(num_cpus=4, num_gpus=2, resources={"my_licence": 1}), NodeSpec(num_cpus=4, num_gpus=2)]
    with ray_nodes(NodeSpec(num_cpus=0), workers) as nodes:
        yield nodes


@pytest.fixture
def joined(nodes):
    """Everything is free. Ray may learn of what the test before has freed a second later."""
    with join(nodes):
        end = time.monotonic() + 60
        while any(node.free != node.total for node in alive_nodes(by_gpus=True)):
            assert time.monotonic() < end
            time.sleep(0.1)
        yield nodes


def hosts(placement, plan, tmp_path):
    """Name -> address of the node on which the worker runs."""
    addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
    workers, bundles = (*plan.engines, *plan.ranks), (*plan.engine_bundles, *plan.rank_bundles)
    group = WorkerGroup(Idle, workers, placement, bundles, {}, str(tmp_path), timeout_s=60)
    processes = group.results([worker.process.remote() for worker in group.workers], "start")
    group.close()
    return [addresses[process.node] for process in processes]


def test_pack_and_spread_on_real_nodes(joined, tmp_path):
    a, b = (node.ip for node in joined.workers)
    plan = layout(2, 1, 2, cpus=0.5, on_gpu=True, shared=False)
    for strategy, group, wanted in (("pack", 1, [a, a, b, b]), ("spread", 1, [a, b, a, b]), ("pack", 2, [a, a, b, b])):
        placement = Placement(plan, NodeChoice(strategy, group), timeout_s=60)
        assert hosts(placement, plan, tmp_path) == wanted
        placement.close()
    shared = layout(2, 2, 4, cpus=0.5, on_gpu=True, shared=True)
    placement = Placement(shared, NodeChoice("pack", 2), timeout_s=60)
    assert hosts(placement, shared, tmp_path) == [a, b, a, a, b, b]
    placement.close()


def test_an_engine_that_fits_on_no_node_is_refused_at_once_by_node(joined):
    """The cluster's totals are enough: four GPUs."""
    a, b = (node.ip for node in joined.workers)
    start = time.monotonic()
    with pytest.raises(SetupError) as raised:
        Placement(layout(1, 4, 0, cpus=0.5, on_gpu=True, shared=False), NodeChoice(), timeout_s=600)
    assert time.monotonic() - start < 60
    lines = str(raised.value).splitlines()
    assert raised.value.exit_code == 4
    assert [joined.head.ip in lines[4], a in lines[2], b in lines[3]] == [True] * 3
    assert "4/4            2/2" in lines[2]
    assert "0/0            0/0" in lines[4]
    assert lines[5] == "  no place for engine-0 (0.5 CPU, 4 GPU): no node has more than 2 GPUs"
    assert "rollout.tensor_parallel_size" in lines[6]


def test_a_run_waits_for_others_says_so_at_once_and_goes_on(joined, caplog):
    """The other job ends as soon as the message comes."""
    other = placement_group([{"CPU": 4, "GPU": 1}])
    assert other.wait(60)
    home = placement_group_table(other)["bundles_to_node_id"][0]
    (busy_ip,) = (node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] == home)
    plan = layout(1, 2, 2, cpus=0.5, on_gpu=True, shared=False)

    class End(logging.Handler):
        def emit(self, record):
            if "waiting for up to" in record.getMessage():
                remove_placement_group(other)

    logger = logging.getLogger("mars.cluster.placement")
    logger.addHandler(handler := End())
    with caplog.at_level(logging.WARNING):
        placement = Placement(plan, NodeChoice(), timeout_s=600)
    logger.removeHandler(handler)
    placement.close()
    (message,) = caplog.messages
    assert "cluster.start_timeout_s" in message
    busy = next(line for line in message.splitlines() if "0/4" in line)
    assert busy_ip in busy
    assert "1/2" in busy
    assert "used on" in message
    assert f"4 CPU, 1 GPU: job {ray.get_runtime_context().get_job_id()}" in message
    assert "too little is free on each node" in message


def test_others_that_stay_end_the_wait_with_the_table(joined):
    other = placement_group([{"CPU": 1, "GPU": 2}] * 2)
    assert other.wait(60)
    with pytest.raises(SetupError, match=r"not free within 1 s") as raised:
        Placement(layout(0, 1, 1, cpus=0.5, on_gpu=True, shared=False), NodeChoice(), timeout_s=1)
    assert "no place for actor-0 (0.5 CPU, 1 GPU): too little is free on each node" in str(raised.value)
    remove_placement_group(other)


def test_workers_of_a_lost_node_get_room_on_another(joined, tmp_path):
    """Kills a node of the module's cluster, so it comes last."""
    a, b = joined.workers
    plan = layout(2, 1, 0, cpus=0.5, on_gpu=True, shared=False)
    placement = Placement(plan, NodeChoice("spread"), timeout_s=60)
    assert hosts(placement, plan, tmp_path) == [a.ip, b.ip]
    b.kill()
    while sum(node["Alive"] for node in ray.nodes()) > 2:
        time.sleep(0.05)
    assert hosts(placement, plan, tmp_path) == [a.ip, a.ip]
    assert [placement.has_room(bundle) for bundle in (0, 1)] == [True, True]
    placement.close()
