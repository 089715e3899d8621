"""The harness itself: each node has what it was given, and one that is killed is gone without the others."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests.clusters.ray_nodes import ROOT, NodeSpec, RayNode, RayNodes, no_namespaces, ray_nodes

# Prints, for each node that was asked for: {address: [CPUs, its variable WHO, how many files it sees in a folder]}.
_ASK = """
import json, os, sys
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

ray.init(address=sys.argv[1], log_to_driver=False)
there = ray.remote(lambda folder: (os.environ["WHO"], len(os.listdir(folder))))
nodes = {node["NodeManagerAddress"]: node for node in ray.nodes() if node["Alive"]}
asked = {ip: there.options(num_cpus=0, scheduling_strategy=On(node["NodeID"], soft=False)).remote(sys.argv[2])
         for ip, node in nodes.items() if ip in sys.argv[3:]}
print(json.dumps({ip: [nodes[ip]["Resources"]["CPU"], *ray.get(answer)] for ip, answer in asked.items()}))
"""


def ask(cluster: RayNodes, folder: Path, *nodes: RayNode) -> dict[str, list]:
    command = [sys.executable, "-c", _ASK, cluster.address, str(folder), *(node.ip for node in nodes)]
    done = subprocess.run(
        command, env={**os.environ, **cluster.environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_nodes_are_as_asked_for_and_die_alone(tmp_path):
    (tmp_path / "file").touch()
    specs = [NodeSpec(num_cpus=2, environment={"WHO": "a"}), NodeSpec(num_cpus=3, environment={"WHO": "b"})]
    with ray_nodes(NodeSpec(environment={"WHO": "head"}), specs, job_server=True) as nodes:
        head, (a, b) = nodes.head, nodes.workers
        assert ask(nodes, tmp_path, head, a, b) == {head.ip: [1, "head", 1], a.ip: [2, "a", 1], b.ip: [3, "b", 1]}
        token = Path(nodes.environment["RAY_AUTH_TOKEN_PATH"]).read_text()
        version = Request(f"{nodes.job_server}/api/version", headers={"Authorization": f"Bearer {token}"})
        with urlopen(version, timeout=60) as answer:
            assert answer.status == 200
        processes = [set(node.pids()) for node in nodes.nodes]
        assert all(processes)
        assert sum(map(len, processes)) == len(set.union(*processes)), "no process belongs to two nodes"
        a.kill()
        assert a.pids() == []
        assert head.process.poll() is None, "it would end if one of its processes had"
        assert b.process.poll() is None
        (added,) = nodes.add(NodeSpec(num_cpus=4, environment={"WHO": "c"}))
        assert ask(nodes, tmp_path, added)[added.ip] == [4, "c", 1]
        b.freeze()
    assert [node.pids() for node in nodes.nodes] == [[]] * 4
    assert not nodes.folder.exists()


def processes_of(sessions: set[int]) -> dict[str, bytes]:
    """The processes of these sessions: id -> command line."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            if os.getsid(int(entry.name)) in sessions:
                found[entry.name] = (entry / "cmdline").read_bytes()
    return found


def test_nodes_end_with_a_process_that_is_killed():
    """Also Ray's agents, which overwrite their environment when they rename themselves."""
    code = (
        "import time; from tests.clusters.ray_nodes import NodeSpec, ray_nodes\n"
        "with ray_nodes(NodeSpec(), [NodeSpec()]) as nodes:\n"
        "    print(nodes.folder, *(node.process.pid for node in nodes.nodes), flush=True); time.sleep(600)"
    )
    killed = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert killed.stdout is not None
    folder, *sessions = killed.stdout.readline().split()
    end = time.monotonic() + 60
    pids = processes_of(set(map(int, sessions)))
    while sum(line.startswith(b"ray::") for line in pids.values()) < 4:
        assert time.monotonic() < end, "each node has two agents"
        time.sleep(0.1)
        pids = processes_of(set(map(int, sessions)))
    killed.kill()
    killed.wait(60)
    end = time.monotonic() + 30
    while (left := [pid for pid in pids if Path(f"/proc/{pid}").exists()] or Path(folder).exists()) and (
        time.monotonic() < end
    ):
        time.sleep(0.1)
    assert not left


@pytest.mark.skipif(bool(no_namespaces()), reason=no_namespaces())
def test_a_node_can_have_its_own_network_and_files(tmp_path):
    (tmp_path / "seen").mkdir()
    (tmp_path / "seen" / "file").touch()
    (tmp_path / "empty").mkdir()
    spec = NodeSpec(environment={"WHO": "alone"}, isolated=True, binds={tmp_path / "seen": tmp_path / "empty"})
    with ray_nodes(NodeSpec(environment={"WHO": "head"}), [spec]) as nodes:
        (alone,) = nodes.workers
        assert ask(nodes, tmp_path / "seen", nodes.head, alone) == {
            nodes.head.ip: [1, "head", 1],
            alone.ip: [1, "alone", 0],
        }
        with pytest.raises(ConnectionRefusedError):  # by the node: nothing listens there
            socket.create_connection((alone.ip, 9), timeout=1)
        alone.cut_off()
        with pytest.raises(TimeoutError):
            socket.create_connection((alone.ip, 9), timeout=1)
        assert alone.pids() != []
