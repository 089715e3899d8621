"""Start engine and trainer workers on a Ray cluster, all at the same time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from mars import interrupts, watchdog
from mars.cluster.environment import worker_environment
from mars.cluster.placement import Placement, WorkerResources
from mars.cluster.ray_engine import BuildEngine, EngineWorker, RayEngine
from mars.cluster.ray_trainer import BuildTrainer, RayTrainer, TrainerWorker
from mars.cluster.restarts import WorkerReport
from mars.cluster.runtime import ray_cluster
from mars.cluster.weights import build_transfer
from mars.cluster.worker_group import WorkerGroup
from mars.config.schema import TrainConfig


@contextmanager
def ray_workers(
    config: TrainConfig,
    build_engine: BuildEngine,
    build_trainer: BuildTrainer | None,
    log_dir: Path,
    report: WorkerReport,
) -> Iterator[tuple[RayEngine, RayTrainer | None]]:
    """Start the workers and build engine and trainer on them; stop them when the block ends.

    build_trainer: None for evaluation, which needs engines only. log_dir: for the workers' logs.
    report: told of workers that are lost and replaced.
    """
    cluster, log_dir = config.cluster, log_dir.absolute()
    on_gpu = cluster.device == "cuda"
    engines = [
        WorkerResources(f"engine-{i}", cluster.cpus_per_worker, config.rollout.tensor_parallel_size if on_gpu else 0)
        for i in range(config.rollout.num_workers)
    ]
    trainers = [
        WorkerResources(f"actor-{i}", cluster.cpus_per_worker, int(on_gpu))
        for i in range(config.actor.num_workers if build_trainer is not None else 0)
    ]
    transfers = partial(build_transfer, rollout=config.rollout, cluster=cluster)
    environment = worker_environment(cluster.threads_per_worker, cluster.device)
    workers = (*engines, *trainers)
    num_cpus = max(math.ceil(sum(worker.cpus for worker in workers)), len(workers))
    with ExitStack() as stack:
        started = ray_cluster(cluster.address, cluster.object_store_bytes, num_cpus, environment, log_dir)
        to_pass = stack.enter_context(started)
        placement = Placement(workers, cluster.start_timeout_s)
        stack.callback(unless_ending, placement.close)

        def group(worker_class, resources, first_bundle) -> WorkerGroup:
            return WorkerGroup(
                worker_class,
                resources,
                placement,
                first_bundle,
                to_pass,
                str(log_dir),
                cluster.call_timeout_s,
            )

        engine = RayEngine(group(EngineWorker, engines, 0), report)
        stack.callback(unless_ending, engine.close)
        stack.enter_context(watchdog.on_stall(engine.dump_stacks))
        trainer = None
        if build_trainer is not None:
            broadcast_timeout_s = cluster.call_timeout_s if config.rollout.weight_transfer == "broadcast" else None
            trainer = RayTrainer(group(TrainerWorker, trainers, len(engines)), report, broadcast_timeout_s)
        engine_builds = engine.start_build(build_engine, transfers)
        if trainer is not None and build_trainer is not None:
            stack.callback(unless_ending, trainer.close)
            stack.enter_context(watchdog.on_stall(trainer.dump_stacks))
            builds = trainer.start_build(build_trainer, transfers, cluster.start_timeout_s, cluster.call_timeout_s)
            trainer.finish_build(builds, cluster.start_timeout_s)
        engine.finish_build(engine_builds, cluster.start_timeout_s)
        yield engine, trainer


def unless_ending(close: Callable[[], None]) -> None:
    """Do not ask busy workers to close where the process ends early: the end of the connection to Ray ends them."""
    if interrupts.reason() is None:
        close()
