"""`mars ray ...`: nodes and jobs of Ray clusters, for scripts/ray_up.sh and scripts/ray_submit.sh."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mars.cli.examples import example
from mars.cli.groups import group
from mars.cli.paths import path_option, path_text_option

ray = group("Start Ray nodes on this machine, and submit runs to a cluster.")

ObjectStore = Annotated[
    int | None,
    typer.Option(
        metavar="BYTES",
        min=1,
        help="Shared memory of the node's object store; default: 30 % of the memory, at most 90 % of what is free.",
    ),
]
NumCpus = Annotated[int | None, typer.Option(help="CPUs that Ray may give to workers; default: all.")]
NumGpus = Annotated[int | None, typer.Option(help="GPUs that Ray may give to workers; default: all.")]
NodeIp = Annotated[
    str | None,
    typer.Option(metavar="IP|INTERFACE", help="Address of this node; default: that of the way to the other nodes."),
]
TempDir = Annotated[Path | None, path_option(metavar="DIR", help="Ray's logs and sockets; default: /tmp/mars-ray-UID.")]
NodePorts = Annotated[
    int,
    typer.Option(metavar="FIRST", min=1024, max=65535, help="The node's services take this port and those after it."),
]
WorkerPorts = Annotated[str, typer.Option(metavar="FIRST-LAST", help="Ports of the node's worker processes.")]
Block = Annotated[bool, typer.Option("--block", help="Stay in the foreground; for Slurm and containers.")]


@ray.command(epilog=example("mars ray head --num-gpus 8"))
def head(
    port: Annotated[int, typer.Option(min=1024, max=65535, help="Port that the other nodes connect to.")] = 6379,
    dashboard_host: Annotated[
        str, typer.Option(metavar="IP", help="Where the job server and the dashboard listen.")
    ] = "127.0.0.1",
    dashboard_port: Annotated[
        int, typer.Option(min=1024, max=65535, help="Port of the job server and the dashboard.")
    ] = 8265,
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


@ray.command(epilog=example("mars ray worker 10.0.0.1:6379"))
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


@ray.command(epilog=example("mars ray stop"))
def stop(temp_dir: TempDir = None) -> None:
    """Stop the nodes that mars ray or ray_up.sh started on this machine with this --temp-dir, and nothing else."""
    from mars.cli.ray_nodes import stop_nodes

    stop_nodes(temp_dir)


@ray.command(epilog=example("mars ray submit --env WANDB_API_KEY -- quickstart run.num_steps=5"))
def submit(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="-- EXPERIMENT key=value",
            help="An experiment, settings, and options of python -m mars.main. With --resume: settings to change.",
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="http://HOST:PORT of a job server, or HOST:PORT of a head; default: RAY_API_SERVER_ADDRESS, else the "
            "head on this machine.",
        ),
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print the job's id, and do not follow it.")] = False,
    resume: Annotated[str | None, path_text_option(metavar="RUN", help="Go on with a run from its checkpoint.")] = None,
    sft: Annotated[bool, typer.Option("--sft", help="A supervised cold start, as python -m mars.sft.")] = False,
    env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Pass an environment variable on to the run; repeatable."),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Files that are not sent to the cluster; repeatable.")
    ] = None,
    follow: Annotated[str | None, typer.Option(metavar="JOB", help="Follow a job that runs already.")] = None,
    stop: Annotated[str | None, typer.Option(metavar="JOB", help="Stop a job: it saves its state and ends.")] = None,
) -> None:
    """Run a training on a cluster, from this folder. Ends with the exit code of the run."""
    from mars.cli import ray_submit
    from mars.errors import ConfigError

    modes = {"--follow": follow, "--stop": stop, "--resume": resume}
    of_new = {"--sft": sft}
    of_submitted = {"--no-wait": no_wait, "--env": env, "--exclude": exclude, "settings": words}
    given = [name for name, value in modes.items() if value is not None]
    if given:
        beside = of_new if given == ["--resume"] else {**of_new, **of_submitted}
        wrong = [*given[1:], *(name for name, value in beside.items() if value)]
        if wrong:
            raise ConfigError(f"{given[0]}: it does not go with {' '.join(wrong)}; leave one out")
    if follow is not None:
        raise typer.Exit(ray_submit.follow(address, follow))
    if stop is not None:
        ray_submit.stop(address, stop)
        return
    code = ray_submit.submit(address, words or [], resume, env or [], exclude or [], sft=sft, wait=not no_wait)
    raise typer.Exit(code)
