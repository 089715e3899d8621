"""Options of `mars ray head` and `worker`, before anything starts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from mars.cli import ray_nodes
from mars.cli.ray_nodes import NodeOptions, start_head
from mars.cli.script import command_of
from mars.errors import ConfigError, SetupError
from mars.run_dir.processes import process_id


@pytest.fixture
def options():
    with TemporaryDirectory(prefix="n-") as folder:
        yield NodeOptions("127.0.0.1", 6380, "10002-10999", 2**28, 0, None, Path(folder), False)


@pytest.mark.parametrize(
    ("node_ports", "worker_ports", "message"),
    [
        (65533, "10002-10999", "--node-ports: ports end at 65535; got 65536 for --dashboard-agent-grpc-port"),
        (10000, "10002-10999", "ports: two of the node's services, or a service and a worker"),
        (6379, "10002-10999", "ports: two of the node's services"),
        (6380, "6000-7000", "ports: two of the node's services"),
        (6380, "10999-10002", "--worker-ports: not FIRST-LAST"),
    ],
)
def test_ports_that_do_not_exist_or_meet(options, node_ports, worker_ports, message):
    given = dataclasses.replace(options, node_ports=node_ports, worker_ports=worker_ports)
    with pytest.raises(ConfigError, match=message):
        start_head(given, 6379, "127.0.0.1", 8265)


def test_a_folder_has_one_cluster(options, monkeypatch):
    monkeypatch.setattr(ray_nodes, "node_problems", lambda *_: [])
    monkeypatch.setattr(ray_nodes, "port_problems", lambda *_: [])
    monkeypatch.setattr(ray_nodes, "token_problems", lambda *_, **__: [])
    records = options.temp_dir / "nodes"
    records.mkdir()
    process = dataclasses.asdict(process_id(psutil.Process()))
    record = {"process": process, "address": "10.0.0.9:6379", "job_server": None, "log": ""}
    (records / "a.json").write_text(json.dumps(record))
    with pytest.raises(SetupError, match=r"--temp-dir: a node of the cluster at 10\.0\.0\.9:6379 runs in"):
        start_head(options, 6379, "127.0.0.1", 8265)


def test_advice_names_the_script_that_was_called(monkeypatch):
    monkeypatch.setenv("MARS_SCRIPT", "/opt/my mars/scripts/ray_up.sh")
    assert command_of("ray_submit.sh") == "bash '/opt/my mars/scripts/ray_submit.sh'"
    monkeypatch.delenv("MARS_SCRIPT")
    assert command_of("ray_submit.sh") == "mars ray submit"
