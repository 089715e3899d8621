"""Start engine and trainer workers on a Ray cluster, all at the same time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from mars.cluster.environment import worker_environment
from mars.cluster.placement import Placement, WorkerResources
from mars.cluster.ray_engine import BuildEngine, EngineWorker, RayEngine
from mars.cluster.ray_trainer import BuildTrainer, RayTrainer, TrainerWorker
from mars.cluster.runtime import ray_cluster
from mars.cluster.worker_group import WorkerGroup


@dataclass(frozen=True)
class RaySettings:
    """Workers, their resources, and deadlines in seconds.

    address: of a running Ray cluster; None starts one on this machine.
    gpus_per_engine: ignored if device is "cpu". Each trainer rank gets one GPU.
    """

    address: str | None
    device: str
    num_engines: int
    gpus_per_engine: int
    num_trainers: int
    cpus_per_worker: float
    threads_per_worker: int
    object_store_bytes: int
    start_timeout_s: float
    call_timeout_s: float
    log_dir: str


@contextmanager
def ray_workers(
    settings: RaySettings, build_engine: BuildEngine, build_trainer: BuildTrainer | None
) -> Iterator[tuple[RayEngine, RayTrainer | None]]:
    """Start the workers and build engine and trainer on them; stop them when the block ends.

    build_trainer: None for evaluation, which needs engines only.
    """
    on_gpu = settings.device == "cuda"
    engines = [
        WorkerResources(f"engine-{i}", settings.cpus_per_worker, settings.gpus_per_engine if on_gpu else 0)
        for i in range(settings.num_engines)
    ]
    trainers = [
        WorkerResources(f"actor-{i}", settings.cpus_per_worker, int(on_gpu))
        for i in range(settings.num_trainers if build_trainer is not None else 0)
    ]
    environment = worker_environment(settings.threads_per_worker, settings.device)
    workers = (*engines, *trainers)
    num_cpus = max(math.ceil(sum(worker.cpus for worker in workers)), len(workers))
    with ExitStack() as stack:
        cluster = ray_cluster(settings.address, settings.object_store_bytes, num_cpus, environment)
        to_pass = stack.enter_context(cluster)
        placement = Placement(workers, settings.start_timeout_s)
        stack.callback(placement.close)

        def group(worker_class, resources, first_bundle) -> WorkerGroup:
            return WorkerGroup(
                worker_class,
                resources,
                placement,
                first_bundle,
                to_pass,
                settings.log_dir,
                settings.call_timeout_s,
            )

        engine = RayEngine(group(EngineWorker, engines, 0))
        stack.callback(engine.close)
        trainer = RayTrainer(group(TrainerWorker, trainers, len(engines))) if build_trainer is not None else None
        engine_builds = engine.start_build(build_engine)
        if trainer is not None and build_trainer is not None:
            stack.callback(trainer.close)
            builds = trainer.start_build(build_trainer, settings.start_timeout_s, settings.call_timeout_s)
            trainer.finish_build(builds, settings.start_timeout_s)
        engine.finish_build(engine_builds, settings.start_timeout_s)
        yield engine, trainer
