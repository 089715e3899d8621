"""`mars ray head` and `worker`: check the machine, start a node, and print what to do next. `stop`: stop nodes."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import typer

from mars.checks.node import free_shared_memory, ip_of, ip_toward, node_problems, port_problems, raise_file_limit
from mars.cli.script import command_of
from mars.cluster import node as ray_node
from mars.cluster.head_node import labels_of_head, mismatches, own_labels
from mars.cluster.node import Node, default_folder
from mars.cluster.token import make_token, token_advice, token_problems
from mars.errors import ConfigError, SetupError

_DEFAULT_PORT = 6379
_SERVICES = (  # options of `ray start`, in the order of their ports
    "node-manager-port",
    "object-manager-port",
    "runtime-env-agent-port",
    "dashboard-agent-grpc-port",
    "dashboard-agent-listen-port",
    "metrics-export-port",
)
_HEAD_SERVICE = "ray-client-server-port"
# No packet is sent to this address. The system only says which of its own addresses it would use.
_FAR_AWAY = "192.0.2.1"


@dataclass(frozen=True)
class NodeOptions:
    """The options that `head` and `worker` share, as the user gave them."""

    node_ip: str | None
    node_ports: int
    worker_ports: str
    object_store: int | None
    num_cpus: int | None
    num_gpus: int | None
    temp_dir: Path | None
    block: bool


def start_head(options: NodeOptions, port: int, dashboard_host: str, dashboard_port: int) -> None:
    """Raises ConfigError for wrong options, and SetupError for problems of the machine."""
    ip = ip_of("--node-ip", options.node_ip) if options.node_ip else ip_toward(_FAR_AWAY)
    services = {"port": port, **_services(options.node_ports, [*_SERVICES, _HEAD_SERVICE])}
    _check_ports({**services, "dashboard-port": dashboard_port}, _range(options.worker_ports))
    server = f"{ip_of('--dashboard-host', dashboard_host)}:{dashboard_port}"
    node = _node(options, ip, f"{ip}:{port}", server, services)
    problems = [
        *node_problems(ip, services, node.folder, node.object_store_bytes, node.num_gpus),
        *port_problems(server.partition(":")[0], {"dashboard-port": dashboard_port}),
        *token_problems(os.environ, needed=False),
    ]
    _start(node, problems, options, _after_head(node))


def start_worker(options: NodeOptions, address: str) -> None:
    """Raises ConfigError for wrong options, and SetupError for problems of the machine or a head that cannot be
    joined."""
    host, _, port = address.rpartition(":") if ":" in address else (address, "", str(_DEFAULT_PORT))
    if not host or not port.isdigit():
        raise ConfigError(f"ADDRESS: not HOST:PORT; got {address}; give the one that `ray_up.sh head` has printed")
    ip = ip_of("--node-ip", options.node_ip) if options.node_ip else ip_toward(host)
    services = _services(options.node_ports, _SERVICES)
    _check_ports(services, _range(options.worker_ports))
    node = _node(options, ip, f"{host}:{port}", None, services)
    problems = node_problems(ip, services, node.folder, node.object_store_bytes, node.num_gpus)
    problems = problems or token_problems(os.environ, needed=True) or _differences(node)
    _start(node, problems, options, f"this node is part of the cluster at {node.head}")


def stop_nodes(temp_dir: Path | None) -> None:
    folder = temp_dir or default_folder()
    stopped = ray_node.stop(folder)
    for node in stopped:
        kind = "the head" if node.job_server else "a worker"
        typer.echo(f"stopped {kind} of the cluster at {node.address} (pid {node.process.pid})")
    if not stopped:
        typer.echo(f"no node that was started here with --temp-dir {folder} is running")


def _node(options: NodeOptions, ip: str, head: str, job_server: str | None, services: Mapping[str, int]) -> Node:
    return Node(
        ip=ip,
        head=head,
        job_server=job_server,
        ports=services,
        worker_ports=_range(options.worker_ports),
        folder=(options.temp_dir or default_folder()).absolute(),
        object_store_bytes=_default_object_store() if options.object_store is None else options.object_store,
        num_cpus=options.num_cpus,
        num_gpus=options.num_gpus,
        labels=own_labels(),
    )


def _services(first: int, names: Sequence[str]) -> dict[str, int]:
    return {name: first + position for position, name in enumerate(names)}


def _check_ports(services: Mapping[str, int], of_workers: tuple[int, int]) -> None:
    """Raises ConfigError if two services, or a service and a worker, share a port, or if a service's is above 65535."""
    names = {port: name for name, port in services.items()}
    above = [port for port in names if port >= 2**16]
    if above:
        raise ConfigError(f"--node-ports: ports end at 65535; got {above[0]} for --{names[above[0]]}; give a lower one")
    among = [port for port in names if of_workers[0] <= port <= of_workers[1]]
    if len(names) < len(services) or among:
        listed = ", ".join(f"{port} --{name}" for name, port in services.items())
        raise ConfigError(
            f"ports: two of the node's services, or a service and a worker, would have the same one; got {listed}, "
            f"{of_workers[0]}-{of_workers[1]} --worker-ports; give others"
        )


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    if not (first.isdigit() and last.isdigit() and 1024 <= int(first) <= int(last) < 2**16):
        raise ConfigError(f"--worker-ports: not FIRST-LAST, two ports from 1024 to 65535; got {text}")
    return int(first), int(last)


def _default_object_store() -> int:
    """30 % of the memory, as is Ray's default, but at most 90 % of the free shared memory. Ray would keep a larger
    store in files, which is slow."""
    return int(min(0.3 * psutil.virtual_memory().total, 0.9 * free_shared_memory()))


def _differences(node: Node) -> list[str]:
    """What differs between this machine and the head, or why the head cannot be asked."""
    try:
        head = labels_of_head(node.head)
    except SetupError as error:
        return [str(error)]
    if not own_labels().keys() & head.keys():
        typer.echo(f"the head at {node.head} was not started by ray_up.sh: its versions are not compared", err=True)
    return [f"{line}; install here what the head has" for line in mismatches(node.labels, head)]


def _start(node: Node, problems: Sequence[str], options: NodeOptions, then: str) -> None:
    if problems:
        raise SetupError("\n".join(problems))
    _check_folder_is_free(node)
    if node.is_head:
        make_token(os.environ)
    raise_file_limit()
    if options.block:
        typer.echo(f"starting a node at {node.ip}; {then}")
        ray_node.become(node)
    running = ray_node.start(node)
    stop = f"{command_of('ray_up.sh')} stop"
    if options.temp_dir is not None:
        stop += f" --temp-dir {shlex.quote(str(node.folder))}"
    store = f"object store {node.object_store_bytes / 2**30:.1f} GiB"
    typer.echo(
        f"started a node at {node.ip} (pid {running.process.pid}, {store}); {then}\nto stop this node:\n  {stop}"
    )


def _check_folder_is_free(node: Node) -> None:
    """Raises SetupError if a node of another cluster uses this folder. For a new head: if any node uses it.

    Ray remembers in a folder only the cluster that was started last, so a job could find the wrong cluster.
    """
    for running in ray_node.running_nodes(node.folder):
        if node.is_head or running.address != node.head:
            raise SetupError(
                f"--temp-dir: a node of the cluster at {running.address} runs in {node.folder}; stop it "
                f"(`{command_of('ray_up.sh')} stop`), or give another folder"
            )


def _after_head(node: Node) -> str:
    lines = [
        f"the cluster is at {node.head}, its job server at http://{node.job_server}",
        *token_advice(os.environ, node.ip),
        f"  bash scripts/ray_up.sh worker {node.head}",
        "then, on this one:",
        f"  {command_of('ray_submit.sh')} --address http://{_reached_at(node)} -- EXPERIMENT key=value ...",
    ]
    return "\n".join(lines)


def _reached_at(node: Node) -> str:
    """host:port at which this machine reaches the job server."""
    host, _, port = str(node.job_server).rpartition(":")
    return f"127.0.0.1:{port}" if host == "0.0.0.0" else f"{host}:{port}"
