"""Runs on several nodes compute what they do on one, also when a node is killed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clusters.ray_nodes import NodeSpec, RayNodes, ray_nodes
from tests.clusters.runs import HEAD, Run, policy, rows

STEPS = 6


@pytest.fixture(scope="module")
def nodes():
    with ray_nodes(HEAD, [NodeSpec(), NodeSpec(), NodeSpec()]) as made:
        yield made


@pytest.fixture
def train(workshop, tmp_path):
    """Starts runs, which end with the test."""
    runs: list[Run] = []

    def make(nodes: RayNodes | None, *overrides: str, name: str = "run", stops: tuple[int, ...] = ()) -> Run:
        runs.append(Run(workshop, tmp_path / name, nodes, *overrides, stops=stops))
        return runs[-1]

    yield make
    for run in runs:
        run.kill()


@pytest.fixture(scope="module")
def undisturbed(workshop, tmp_path_factory) -> Callable[[int], Path]:
    """number of steps, ranks -> the folder of a run in one process."""
    made: dict[int, Path] = {}

    def whole(steps: int) -> Path:
        if steps not in made:
            run = Run(workshop, tmp_path_factory.mktemp("whole") / "run", None, f"run.num_steps={steps}")
            assert run.exit_code() == 0, run.stderr[-3000:]
            made[steps] = run.run_dir
        return made[steps]

    return whole


def add_until(nodes: RayNodes, number: int) -> None:
    """Start nodes until so many beside the head live."""
    alive = sum(node.process.poll() is None for node in nodes.workers)
    nodes.add(*[NodeSpec()] * (number - alive))


@pytest.mark.parametrize("transfer", ["object_store", "broadcast"])
def test_engine_and_rank_on_two_nodes_compute_what_one_process_does(nodes, train, undisturbed, transfer):
    run = train(nodes, f"run.num_steps={STEPS}", f"rollout.weight_transfer={transfer}", stops=(1,))
    run.until_stopped()
    assert run.node_of("engine-0") is not run.node_of("actor-0")
    run.go_on()
    assert run.exit_code() == 0, run.stderr[-3000:]
    assert rows(run.run_dir) == rows(undisturbed(STEPS))
    assert policy(run.run_dir) == policy(undisturbed(STEPS))


def test_a_lost_engine_moves_or_is_left_out_until_a_node_has_room(nodes, train, undisturbed):
    """First a node freezes, and another has room. Then none has; the other engine gets its requests, until a node is
    added."""
    add_until(nodes, 4)
    settings = ("rollout.num_workers=2", "cluster.replace_timeout_s=20", "run.num_steps=3000")
    run = train(nodes, *settings, stops=(2, 4, 6))
    run.until_stopped()
    first = run.node_of("engine-1")
    first.freeze()  # its connections stay open
    run.go_on()
    run.until_stopped()
    first.kill()
    assert [len(run.events(name, "engine-1")) for name in ("worker_lost", "worker_replaced")] == [1, 1]
    run.node_of("engine-1").kill()
    run.go_on()
    run.until_stopped()
    assert len(run.events("engine_left_out", "engine-1")) == 1
    assert "no node had room for engine-1 in time (cluster.replace_timeout_s); engines that go on: 1" in run.stderr
    add_until(nodes, 3)
    run.go_on()
    run.until(lambda: len(run.events("worker_replaced", "engine-1")) == 2)
    run.end()
    assert run.exit_code() == 75, run.stderr[-3000:]
    found = rows(run.run_dir)
    assert found == rows(undisturbed(len(found)))
    assert not run.events("trainer_rebuilt")
    assert run.workers_alive(20) == []


def test_a_lost_rank_starts_elsewhere_or_the_run_waits_and_can_be_resumed(nodes, train, undisturbed):
    add_until(nodes, 3)
    settings = (f"run.num_steps={STEPS}", "cluster.start_timeout_s=45", "data.transport=object_store")
    run = train(nodes, *settings, stops=(3, 6))
    run.until_stopped()
    run.node_of("actor-0").kill()
    run.go_on()  # step 3 is trained again
    run.until_stopped()
    assert len(run.events("trainer_rebuilt")) == 1
    run.node_of("actor-0").kill()
    run.go_on()
    assert run.exit_code() == 5
    assert "no node had room for actor-0 within 45 s (cluster.start_timeout_s)" in run.stderr
    assert f"go on with `mars resume {run.run_dir}`" in run.stderr
    assert run.workers_alive(20) == []
    add_until(nodes, 2)
    again = train(nodes, *settings, "run.resume=true")
    assert again.exit_code() == 0, again.stderr[-3000:]
    assert rows(run.run_dir) == rows(undisturbed(STEPS))
    assert policy(run.run_dir) == policy(undisturbed(STEPS))


def test_engine_and_rank_that_share_a_lost_node_move_together(nodes, train, undisturbed):
    add_until(nodes, 2)
    shared = ("cluster.placement=colocated", "cluster.cpus_per_worker=0.5", "cluster.node_strategy=pack")
    run = train(nodes, f"run.num_steps={STEPS}", *shared, stops=(3,))
    run.until_stopped()
    lost = run.node_of("actor-0")
    assert run.node_of("engine-0") is lost
    lost.kill()
    run.go_on()
    assert run.exit_code() == 0, run.stderr[-3000:]
    assert len(run.events("trainer_rebuilt")) == 1
    assert len(run.events("worker_replaced", "engine-0")) == 1
    assert rows(run.run_dir) == rows(undisturbed(STEPS))
    assert policy(run.run_dir) == policy(undisturbed(STEPS))


def test_vllm_engines_on_two_nodes_go_on_when_one_is_lost(nodes, train):
    add_until(nodes, 4)
    run = train(nodes, "rollout=vllm", "rollout.num_workers=2", "run.num_steps=4", stops=(2,))
    run.until_stopped()
    places = [run.node_of(name) for name in ("engine-0", "engine-1", "actor-0")]
    assert len(set(places)) == 3
    places[1].kill()
    run.go_on()
    assert run.exit_code() == 0, run.stderr[-3000:]
    assert len(run.events("worker_replaced", "engine-1")) == 1
    assert [row["step"] for row in rows(run.run_dir)] == [1, 2, 3, 4]
    assert run.workers_alive(20) == []


def test_without_the_head_all_processes_of_a_run_end_and_a_new_cluster_goes_on(train, undisturbed):
    """Last: the head is gone then."""
    with ray_nodes(HEAD, [NodeSpec(), NodeSpec()]) as first:
        run = train(first, f"run.num_steps={STEPS}", stops=(3,))
        run.until_stopped()
        first.head.kill()
        start = time.monotonic()
        run.go_on()
        assert run.exit_code() == 5, run.stderr[-3000:]
        assert "the Ray cluster is lost" in run.stderr
        assert f"mars resume {run.run_dir}" in run.stderr
        assert (run.events()[-1]["event"], "the traceback is in" in run.stderr) == ("failed", False)
        assert run.workers_alive(start + 40 - time.monotonic()) == []  # Ray alone takes a minute
    with ray_nodes(HEAD, [NodeSpec(), NodeSpec()]) as second:
        again = train(second, f"run.num_steps={STEPS}", "run.resume=true")
        assert again.exit_code() == 0, again.stderr[-3000:]
    assert rows(run.run_dir) == rows(undisturbed(STEPS))
    assert policy(run.run_dir) == policy(undisturbed(STEPS))
