"""Nodes that differ from the driver in packages, code, model files or images, on real nodes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mars.cluster.layout import layout
from mars.cluster.node_check import NodeCheck, nodes_agree
from mars.cluster.node_facts import SharedFiles
from mars.cluster.nodes import alive_nodes
from mars.cluster.placement import NodeChoice, Placement
from mars.config.run_sections import ClusterConfig
from mars.errors import SetupError, WorkerLost
from tests.clusters.joined import joined
from tests.clusters.ray_nodes import ROOT, NodeSpec, no_namespaces, ray_nodes
from tests.integration.workshop import Workshop

PACKED = layout(0, 1, 2, cpus=1.0, on_gpu=False, shared=False)
SPREAD = layout(2, 1, 0, cpus=1.0, on_gpu=False, shared=False)


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """A folder for PYTHONPATH with another mars and another version of a package."""
    folder = tmp_path_factory.mktemp("other")
    shutil.copytree(ROOT / "mars", folder / "mars", ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "mars" / "step.py").open("a") as step:
        step.write("# another\n")
    (folder / "mars" / "new.py").touch()
    (folder / "safetensors-0.0.1.dist-info").mkdir()
    (folder / "safetensors-0.0.1.dist-info" / "METADATA").write_text("Name: safetensors\nVersion: 0.0.1\n")
    return folder


@pytest.fixture(scope="module")
def nodes(other):
    """A head without CPUs, a node like this one, and one with another environment."""
    with ray_nodes(
        NodeSpec(num_cpus=0), [NodeSpec(num_cpus=3), NodeSpec(num_cpus=2, environment={"PYTHONPATH": str(other)})]
    ) as nodes:
        yield nodes


def check(nodes, plan, strategy, files, inside=lambda: None):
    settings = ClusterConfig.model_construct(address=nodes.address, start_timeout_s=60.0)
    placement = Placement(plan, NodeChoice(strategy), timeout_s=60)
    try:
        with nodes_agree(placement, settings, files, {}, ()):
            inside()
    finally:
        placement.close()


def test_the_nodes_of_a_run_are_compared_with_the_driver(nodes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # Ray's workers look for modules in the driver's folder first
    image = tmp_path / "image.png"
    image.write_bytes(b"12345")
    different = nodes.workers[1]
    with joined(nodes):
        check(nodes, PACKED, "pack", SharedFiles.of([], [str(image)]))  # both on the node like this one
        with pytest.raises(SetupError) as raised:
            check(nodes, SPREAD, "spread", SharedFiles.of([], [str(image)]))
        lines = str(raised.value).splitlines()
        assert raised.value.exit_code == 4
        assert len(lines) == 5
        assert all(different.ip in line for line in lines[2:4])
        assert nodes.head.ip not in "".join(lines[2:])
        assert "safetensors  0.0.1" in lines[2]
        assert "2 of " in lines[3]
        assert "checked differ, first mars/new.py: only there" in lines[3]

        by_ip = {node.name.partition("(")[2].rstrip(")"): node for node in alive_nodes(by_gpus=False)}
        later = NodeCheck(SharedFiles(), {}, 60.0)
        assert later.agrees(by_ip[nodes.workers[0].ip], runs_vllm=False)
        with pytest.raises(SetupError, match="only there"):  # as when a lost worker is to start there
            later.agrees(by_ip[different.ip], runs_vllm=False)

        def fail():
            raise WorkerLost("cluster: start of a worker failed")

        with pytest.raises(SetupError, match="not all nodes have what the driver has"):
            check(nodes, SPREAD, "spread", SharedFiles(), fail)
        with pytest.raises(WorkerLost):  # nothing differs that explains it
            check(nodes, PACKED, "pack", SharedFiles(), fail)


def test_a_run_on_nodes_that_differ_ends_before_training(nodes, workshop: Workshop, tmp_path):
    job = workshop.train(
        tmp_path / "run", "rollout=hf", "rollout.num_workers=1", "actor.num_workers=2", "cluster.cpus_per_worker=1.5",
        "cluster.node_strategy=spread", f"cluster.address={nodes.address}", "cluster.device=cpu", **nodes.environment,
    )  # fmt: skip
    assert job.returncode == 4, job.stderr[-3000:]
    assert "not all nodes have what the driver has" in job.stderr
    assert "mars/new.py: only there" in job.stderr
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.skipif(bool(no_namespaces()), reason=no_namespaces())
def test_files_that_a_node_does_not_have_are_named_with_it(tmp_path):
    folders = {name: tmp_path / name for name in ("model", "images", "empty")}
    for folder in folders.values():
        folder.mkdir()
    (folders["model"] / "config.json").write_text("{}")
    for i in range(3):
        (folders["images"] / f"{i}.png").touch()
    blind = NodeSpec(num_cpus=2, binds={folders["model"]: folders["empty"], folders["images"]: folders["empty"]})
    files = SharedFiles.of([str(folders["model"])], [str(path) for path in sorted(folders["images"].iterdir())])
    with ray_nodes(NodeSpec(num_cpus=0), [blind]) as nodes, joined(nodes), pytest.raises(SetupError) as raised:
        check(nodes, PACKED, "pack", files)
    lines = str(raised.value).splitlines()
    assert all(nodes.workers[0].ip in line for line in lines[2:4])
    assert f"1 of 1 checked differ, first {folders['model']}/config.json: missing" in lines[2]
    assert f"3 of 3 checked differ, first {folders['images']}/0.png: missing" in lines[3]
    assert "mount it there" in lines[4]
