"""`mars ray ...`: Ray nodes on this machine. scripts/ray_up.sh is the same command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ray = typer.Typer(help="Start and stop Ray nodes on this machine.", no_args_is_help=True, rich_markup_mode=None)

ObjectStore = Annotated[
    int | None,
    typer.Option(metavar="BYTES", help="Shared memory of the node's object store; default: 30 % of the memory."),
]
NumCpus = Annotated[int | None, typer.Option(help="CPUs that Ray may give to workers; default: all.")]
NumGpus = Annotated[int | None, typer.Option(help="GPUs that Ray may give to workers; default: all.")]
NodeIp = Annotated[
    str | None,
    typer.Option(metavar="IP|INTERFACE", help="Address of this node; default: that of the way to the other nodes."),
]
TempDir = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Ray's logs and sockets; default: /tmp/mars-ray-UID.")
]
NodePorts = Annotated[int, typer.Option(metavar="FIRST", help="The node's services take this port and those after it.")]
WorkerPorts = Annotated[str, typer.Option(metavar="FIRST-LAST", help="Ports of the node's worker processes.")]
Block = Annotated[bool, typer.Option("--block", help="Stay in the foreground; for Slurm and containers.")]


@ray.command()
def head(
    port: Annotated[int, typer.Option(help="Port that the other nodes connect to.")] = 6379,
    dashboard_host: Annotated[
        str, typer.Option(metavar="IP", help="Where the job server and the dashboard listen.")
    ] = "127.0.0.1",
    dashboard_port: Annotated[int, typer.Option(help="Port of the job server and the dashboard.")] = 8265,
    node_ip: NodeIp = None,
    node_ports: NodePorts = 6380,
    worker_ports: WorkerPorts = "10002-10999",
    object_store: ObjectStore = None,
    num_cpus: NumCpus = None,
    num_gpus: NumGpus = None,
    temp_dir: TempDir = None,
    block: Block = False,
) -> None:
    """Start a cluster with its first node on this machine."""
    from mars.cli.ray_nodes import NodeOptions, start_head

    options = NodeOptions(node_ip, node_ports, worker_ports, object_store, num_cpus, num_gpus, temp_dir, block)
    start_head(options, port, dashboard_host, dashboard_port)


@ray.command()
def worker(
    address: Annotated[str, typer.Argument(help="Of the head: HOST:PORT, or HOST for port 6379.")],
    node_ip: NodeIp = None,
    node_ports: NodePorts = 6380,
    worker_ports: WorkerPorts = "10002-10999",
    object_store: ObjectStore = None,
    num_cpus: NumCpus = None,
    num_gpus: NumGpus = None,
    temp_dir: TempDir = None,
    block: Block = False,
) -> None:
    """Let this machine join a cluster."""
    from mars.cli.ray_nodes import NodeOptions, start_worker

    options = NodeOptions(node_ip, node_ports, worker_ports, object_store, num_cpus, num_gpus, temp_dir, block)
    start_worker(options, address)


@ray.command()
def stop(temp_dir: TempDir = None) -> None:
    """Stop the nodes that ray_up.sh has started on this machine with this --temp-dir, and nothing else."""
    from mars.cli.ray_nodes import stop_nodes

    stop_nodes(temp_dir)
