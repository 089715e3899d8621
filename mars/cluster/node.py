"""Start a Ray node on this machine with `ray start`, record it, and stop it.

`ray start --block` does not return, and is the parent of the node's processes. When it ends in any way, the kernel ends
them. So a node is stopped by stopping one process, without touching another Ray on this machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import psutil

from mars.errors import SetupError
from mars.output.files import private_folder_problem
from mars.run_dir.processes import ProcessId, process_from, process_id, this_process

_STARTED = "Ray runtime started."
_START_TIMEOUT_S = 180.0
_STOP_TIMEOUT_S = 20.0
_POLL_S = 0.1
_LOG_LINES = 25
_RECORDS = "nodes"
RAY_FOLDER = "ray"
"""Ray's folder inside --temp-dir. Ray lets everybody write to its folder, but only the user can enter --temp-dir."""
_NOT_INHERITED = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "MARS_SCRIPT")


@dataclass(frozen=True)
class Node:
    """A node to be started.

    head: host:port of the cluster's head; if this node is the head, its own. job_server: of the head, host:port; None
    if this node is not the head. ports: option of `ray start` -> port. worker_ports: lowest and highest port of its
    worker processes. num_cpus, num_gpus: None lets Ray count them. labels: of the node, which other nodes can read.
    """

    ip: str
    head: str
    job_server: str | None
    ports: Mapping[str, int]
    worker_ports: tuple[int, int]
    folder: Path
    object_store_bytes: int
    num_cpus: int | None
    num_gpus: int | None
    labels: Mapping[str, str]

    @property
    def is_head(self) -> bool:
        return self.job_server is not None

    def command(self) -> list[str]:
        options = {
            "node-ip-address": self.ip,
            **self.ports,
            "min-worker-port": self.worker_ports[0],
            "max-worker-port": self.worker_ports[1],
            "object-store-memory": self.object_store_bytes,
            "temp-dir": self.folder / RAY_FOLDER,
            "labels": ",".join(f"{name}={value}" for name, value in self.labels.items()),
            "include-log-monitor": "false",  # mars' workers have logs of their own
            "num-cpus": self.num_cpus,
            "num-gpus": self.num_gpus,
        }
        if self.job_server is None:
            options["address"] = self.head
        else:
            host, _, port = self.job_server.rpartition(":")
            options |= {"include-dashboard": "true", "dashboard-host": host, "dashboard-port": port}
        # -P: the current folder may have files named like Python's modules.
        start = [sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--block", "--log-color=false"]
        role = ["--head", "--no-monitor"] if self.is_head else []  # the monitor is for autoscaling
        return [*start, *role, *(f"--{name}={value}" for name, value in options.items() if value is not None)]


@dataclass(frozen=True)
class RunningNode:
    """process: of `ray start --block`. address: of the cluster. job_server: http://host:port; None if not the head."""

    process: ProcessId
    address: str
    job_server: str | None
    log: str


def default_folder() -> Path:
    """The default of --temp-dir, one for each user. Ray's own default is one folder for all users, in which only one
    user can have a cluster."""
    return Path(tempfile.gettempdir()) / f"mars-ray-{os.getuid()}"


def node_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables of the node's processes, which jobs and workers inherit.

    MARS_PYTHON: the Python that runs a job.
    """
    inherited = {name: value for name, value in environment.items() if name not in _NOT_INHERITED}
    bin_folder = str(Path(sys.executable).parent)
    return inherited | {
        "MARS_PYTHON": sys.executable,
        "PATH": os.pathsep.join([bin_folder, environment.get("PATH", os.defpath)]),
        "PYTHONUTF8": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_enable_pipe_based_agent_to_parent_health_check": "1",  # Ray's agents end with the raylet at once
    }


def become(node: Node) -> NoReturn:
    """Turn this process into the node, so that it ends when the node ends. For Slurm and containers."""
    _record(node, this_process(), "")
    sys.stdout.flush()
    command = node.command()
    os.execve(command[0], command, node_environment(os.environ))


def start(node: Node) -> RunningNode:
    """Start the node in the background, and wait until it has joined its cluster. Raises SetupError."""
    logs = node.folder / _RECORDS
    logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    role = "head" if node.is_head else "worker"
    path = logs / f"{role}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as log:
        process = subprocess.Popen(
            node.command(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=node_environment(os.environ),
            start_new_session=True,
        )
    try:
        _wait_until_started(process, path)
        return _record(node, process_id(psutil.Process(process.pid)), str(path))
    except BaseException:
        process.terminate()
        raise


def _wait_until_started(process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _START_TIMEOUT_S
    while _STARTED not in (text := log.read_text(encoding="utf-8", errors="replace")):
        code = process.poll()
        if code is None and time.monotonic() < end:
            time.sleep(_POLL_S)
            continue
        what = f"ended with exit code {code}" if code is not None else f"did not start within {_START_TIMEOUT_S:g} s"
        lines = [line for line in text.splitlines() if line.strip()][-_LOG_LINES:]
        raise SetupError("\n".join([f"`ray start` {what}; it printed (all of it is in {log}):", *lines]))


def _record(node: Node, process: ProcessId, log: str) -> RunningNode:
    server = f"http://{node.job_server}" if node.job_server is not None else None
    running = RunningNode(process, node.head, server, log)
    folder = node.folder / _RECORDS
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{process.host}-{process.pid}.json"
    path.write_text(json.dumps(asdict(running)), encoding="utf-8")
    return running


def running_nodes(folder: Path) -> list[RunningNode]:
    """Running nodes that were started on this machine with this --temp-dir, the newest first.

    Raises SetupError if other users might have written to this folder, because its records are trusted: `stop` ends the
    processes that are named there, and the token is sent to the server that is named there.
    """
    problem = private_folder_problem(folder) if os.path.lexists(folder) else None
    if problem is not None:
        raise SetupError(f"--temp-dir: {problem}")
    found = [node for _, node in _records(folder) if node.process.is_here() and node.process.is_alive()]
    return sorted(found, key=lambda node: -node.process.started)


def stop(folder: Path) -> list[RunningNode]:
    """Stop the nodes of `running_nodes`, and return them. Raises SetupError if one does not end."""
    stopped = running_nodes(folder)
    for node in stopped:
        _end(node)
    for path, node in list(_records(folder)):
        if node.process.is_here() and not node.process.is_alive():
            path.unlink(missing_ok=True)
    return stopped


def _records(folder: Path) -> Iterator[tuple[Path, RunningNode]]:
    for path in sorted((folder / _RECORDS).glob("*.json")):
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError):  # half a record, of a full disk
            continue
        process = process_from(content.get("process")) if isinstance(content, dict) else None
        if process is not None:
            yield path, RunningNode(process, content["address"], content["job_server"], content["log"])


def _end(node: RunningNode) -> None:
    parent = psutil.Process(node.process.pid)
    family = [parent, *parent.children(recursive=True)]
    parent.terminate()
    left = _running_after(family, _STOP_TIMEOUT_S)
    for process in left:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    left = _running_after(left, _STOP_TIMEOUT_S)
    if left:
        pids = " ".join(str(process.pid) for process in left)
        raise SetupError(
            f"processes of the Ray node do not end: {pids}; `kill -9 {pids}` again, or restart the machine"
        )


def _running_after(processes: Sequence[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """The processes that still run after `timeout_s`. Zombies, which stay in a container without an init process, do
    not count."""
    end = time.monotonic() + timeout_s
    while (left := [process for process in processes if _runs(process)]) and time.monotonic() < end:
        time.sleep(_POLL_S)
    return left


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
