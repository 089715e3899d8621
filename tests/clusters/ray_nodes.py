"""Ray clusters of several nodes on this machine, made of real processes.

    with ray_nodes(NodeSpec(num_cpus=1), [NodeSpec(num_cpus=2), NodeSpec(num_cpus=2)]) as nodes:
        job = workshop.train(run_dir, f"cluster.address={nodes.address}", **nodes.environment)
        nodes.workers[0].kill()

Each node is a `ray start --block` in a session of its own, with its own address (127.0.0.2, 127.0.0.3, ...), ports,
object store and folder. Only processes with the cluster's token can talk to it. Ray's servers listen on all interfaces,
unless the nodes are `isolated`, because Ray knows no loopback address but 127.0.0.1, which would be the same for all.
Nodes end with the process that has started them, also if it is killed.

With the rights of root a node can have a network of its own (`isolated`), which can be cut off, and its own view of
files (`binds`). `no_namespaces()` says why not, for skipif.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mars.cluster.guard import MARK, Guard
from tests.clusters.networks import Network, no_namespaces

__all__ = ["ROOT", "NodeSpec", "RayNode", "RayNodes", "no_namespaces", "ray_nodes"]

ROOT = Path(__file__).parents[2]
_RAY = Path(sys.executable).with_name("ray")
_MARK = "MARS_TEST_NODE"
"""Environment variable of all processes of a node, those in other sessions too. Its value is the node's folder."""
_START_S = 120.0
_END_S = 20.0
_POLL_S = 0.05
_STARTED = "Ray runtime started."
# One for all clusters of this process: Ray reads it once.
_TOKEN = secrets.token_hex(32)


@dataclass(frozen=True)
class NodeSpec:
    """num_cpus, num_gpus, resources: what Ray may give to workers; none of it need exist.

    environment: variables of the node's processes, beside those of this process. arguments: more of `ray start`.
    binds: for this node alone, folder -> folder that is seen in its place. An empty folder hides what is there.
    isolated: whether the node has a network of its own. The head of a cluster cannot.
    """

    num_cpus: float = 1
    num_gpus: int = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    object_store_bytes: int = 80 * 2**20
    environment: Mapping[str, str] = field(default_factory=dict)
    arguments: Sequence[str] = ()
    binds: Mapping[Path, Path] = field(default_factory=dict)
    isolated: bool = False


class RayNode:
    """A node of a cluster: the process `ray start`, and all that it has started."""

    def __init__(self, ip: str, folder: Path, process: subprocess.Popen[bytes], network: Network | None) -> None:
        self.ip, self.folder, self.process, self._network = ip, folder, process, network

    def wait_until_started(self) -> None:
        end = time.monotonic() + _START_S
        while _STARTED not in self.output():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"a Ray node has not started:\n{self.output()[-4000:]}")
            time.sleep(_POLL_S)

    def output(self) -> str:
        """What `ray start` has printed."""
        return (self.folder / "output").read_text(errors="replace")

    def pids(self) -> list[int]:
        """Its processes: those of its session, and those with its mark, such as jobs."""
        return [pid for pid, state in _states().items() if state != "Z" and self._has(pid)]

    def _has(self, pid: int) -> bool:
        try:
            if os.getsid(pid) == self.process.pid:
                return True
            return f"{_MARK}={self.folder}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:  # it has ended
            return False

    def kill(self) -> None:
        """End all its processes at once with SIGKILL, as a loss of power would. Returns when they are gone."""
        end = time.monotonic() + _END_S
        while pids := self.pids():
            _signal(pids, signal.SIGKILL)
            if time.monotonic() > end:
                raise RuntimeError(f"processes of a Ray node do not end: {pids}")
            time.sleep(_POLL_S)
        self.process.wait(_END_S)

    def freeze(self) -> None:
        """Stop all its processes (SIGSTOP): its sockets stay open and nothing answers."""
        while pids := [pid for pid, state in _states().items() if state not in "ZTt" and self._has(pid)]:
            _signal(pids, signal.SIGSTOP)
            time.sleep(_POLL_S)

    def thaw(self) -> None:
        _signal(self.pids(), signal.SIGCONT)

    def cut_off(self) -> None:
        """Pull its network cable. Only an `isolated` node has one."""
        assert self._network is not None
        self._network.cut(self.ip)

    def plug_in(self) -> None:
        assert self._network is not None
        self._network.join(self.ip)


class RayNodes:
    """A head and its workers.

    address: of the cluster, for `cluster.address`.
    environment: variables with which a process of this machine may talk to the cluster.
    job_server: address of Ray's job server; None where none was asked for.
    """

    def __init__(self, network: Network | None) -> None:
        # Short: the paths of Ray's sockets in it may have 107 characters.
        self.folder, self._network = Path(tempfile.mkdtemp(prefix="mn-")), network
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text(_TOKEN)
        self._guards = [Guard(self.folder, None)]
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        self.nodes: list[RayNode] = []
        self.address = ""
        self.job_server: str | None = None

    def start_head(self, head: NodeSpec, job_server: bool) -> None:
        ip = self._new_ip(head)
        port, *others = _free_ports(ip, 3)
        self.address = f"{ip}:{port}"
        self.job_server = f"http://127.0.0.1:{others[0]}" if job_server else None
        options = [f"--include-dashboard={str(job_server).lower()}", f"--dashboard-port={others[0]}"]
        options += ["--dashboard-host=127.0.0.1", f"--ray-client-server-port={others[1]}", "--no-monitor"]
        self._start(head, ip, ["--head", f"--port={port}", *options]).wait_until_started()

    @property
    def head(self) -> RayNode:
        return self.nodes[0]

    @property
    def workers(self) -> list[RayNode]:
        """In the order in which they were added, with those that were killed."""
        return self.nodes[1:]

    def add(self, *specs: NodeSpec) -> list[RayNode]:
        """Start worker nodes, all at the same time. Returns when they have joined the cluster."""
        added = [self._start(spec, self._new_ip(spec), [f"--address={self.address}"]) for spec in specs]
        for node in added:
            node.wait_until_started()
        return added

    def close(self) -> None:
        for node in reversed(self.nodes):
            node.kill()
        for guard in self._guards:
            guard.close()

    def _new_ip(self, spec: NodeSpec) -> str:
        if self._network is not None:
            return self._network.new_ip(spec.isolated)
        assert not spec.isolated, "ray_nodes(isolated=True) makes a network"
        return f"127.0.0.{len(self.nodes) + 2}"

    def _start(self, spec: NodeSpec, ip: str, options: list[str]) -> RayNode:
        folder = self.folder / str(len(self.nodes))
        folder.mkdir()
        listen, runtime_env = _free_ports(ip, 2) if not spec.isolated else (52365, 52366)
        command = [sys.executable, str(_RAY), "start", "--block", f"--node-ip-address={ip}", *options]
        command += [f"--num-cpus={spec.num_cpus:g}", f"--num-gpus={spec.num_gpus}"]
        command += [f"--resources={json.dumps(dict(spec.resources))}", f"--temp-dir={folder}"]
        command += [f"--object-store-memory={spec.object_store_bytes}", "--include-log-monitor=false"]
        command += [f"--dashboard-agent-listen-port={listen}", f"--runtime-env-agent-port={runtime_env}"]
        command = _with_binds([*command, *spec.arguments], spec.binds)
        if spec.isolated and self._network is not None:
            command = self._network.command(ip, command)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "PYTHONUTF8": "1",
            "HF_HUB_OFFLINE": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            **self.environment,
            **spec.environment,
            _MARK: str(folder),
            MARK: str(self.folder),
        }
        with (folder / "output").open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=folder,
                start_new_session=True,
            )
        self._guards.append(Guard(self.folder, None, session=process.pid))
        self.nodes.append(RayNode(ip, folder, process, self._network if spec.isolated else None))
        return self.nodes[-1]


@contextmanager
def ray_nodes(
    head: NodeSpec = NodeSpec(),
    workers: Sequence[NodeSpec] = (),
    *,
    job_server: bool = False,
) -> Iterator[RayNodes]:
    """A cluster inside the block. Afterwards none of its processes is left, and its folder is gone."""
    with Network.made(any(spec.isolated for spec in workers)) as network:
        nodes = RayNodes(network)
        try:
            nodes.start_head(head, job_server)
            nodes.add(*workers)
            yield nodes
        finally:
            nodes.close()


def _with_binds(command: list[str], binds: Mapping[Path, Path]) -> list[str]:
    if not binds:
        return command
    mounts = "".join('mount --bind "$1" "$2" && shift 2 && ' for _ in binds)
    pairs = [str(path) for target, source in binds.items() for path in (source, target)]
    return ["unshare", "--mount", "sh", "-c", f'{mounts}exec "$@"', "sh", *pairs, *command]


def _free_ports(ip: str, number: int) -> list[int]:
    """Ports that nothing on this machine uses."""
    probes = [socket.socket() for _ in range(number)]
    try:
        for probe in probes:
            probe.bind(("", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _states() -> dict[int, str]:
    """Every process of this machine -> the letter of its state."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            found[int(entry.name)] = (entry / "stat").read_text().rpartition(")")[2].split()[0]
    return found


def _signal(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
