"""Start engine and trainer workers on a Ray cluster, all at once; on shared GPUs, build engines after the trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from mars import interrupts, watchdog
from mars.actor.trainer import PolicyTrainer
from mars.answers.record import PromptLength
from mars.cluster.engine_worker import BuildEngine, EngineWorker
from mars.cluster.environment import collect_rarely, worker_environment
from mars.cluster.layout import Layout, gpus_of_engines, layout
from mars.cluster.node_check import nodes_agree
from mars.cluster.node_facts import SharedFiles
from mars.cluster.placement import reserved
from mars.cluster.ray_engine import RayEngine
from mars.cluster.ray_trainer import BuildTrainer, RayTrainer, TrainerWorker
from mars.cluster.restarts import WorkerReport
from mars.cluster.runtime import ray_cluster
from mars.cluster.weights import build_transfer
from mars.cluster.worker_group import WorkerGroup
from mars.cluster.worker_images import image_access
from mars.config.run_sections import is_colocated
from mars.config.schema import TrainConfig
from mars.rollout.engine import RolloutEngine
from mars.rollout.window import samples_in_window
from mars.turns import take_turns


@contextmanager
def ray_workers(
    config: TrainConfig,
    build_engine: BuildEngine,
    build_trainer: BuildTrainer | None,
    prompt_length: PromptLength,
    files: SharedFiles,
    log_dir: Path,
    report: WorkerReport,
) -> Iterator[tuple[RolloutEngine, PolicyTrainer | None]]:
    """Start the workers and build engine and trainer on them; stop them when the block ends.

    build_trainer: None for evaluation. prompt_length: of a request, to balance the engines.
    files: that all nodes must have. log_dir: for the workers' logs. report: called when a worker is lost or replaced.
    """
    collect_rarely()
    cluster, log_dir = config.cluster, log_dir.absolute()
    colocated = build_trainer is not None and is_colocated(cluster.placement, cluster.kind, cluster.device)
    plan = _layout(config, build_trainer is not None, colocated)
    transfers = partial(build_transfer, rollout=config.rollout, cluster=cluster)
    environment = worker_environment(cluster.threads_per_worker, cluster.device)
    workers = (*plan.engines, *plan.ranks)
    num_cpus = max(math.ceil(sum(worker.cpus for worker in workers)), len(workers))
    with ExitStack() as stack:
        started = ray_cluster(cluster.address, cluster.object_store_bytes, num_cpus, environment, log_dir)
        to_pass = stack.enter_context(started)
        placement = reserved(plan, cluster, config.actor.fsdp_size)
        stack.callback(unless_ending, placement.close)
        images = stack.enter_context(image_access(config.data, cluster, to_pass, log_dir))

        def group(worker_class, resources, bundles) -> WorkerGroup:
            return WorkerGroup(
                worker_class, resources, placement, bundles, to_pass, str(log_dir), cluster.call_timeout_s
            )

        engines = group(EngineWorker, plan.engines, plan.engine_bundles)
        window = samples_in_window(config.rollout.max_num_seqs)
        engine = RayEngine(engines, prompt_length, window, cluster.replace_timeout_s, report)
        stack.callback(unless_ending, engine.close)
        stack.enter_context(watchdog.on_stall(engine.dump_stacks))
        trainer, rank_builds = None, []
        vllm_bundles = plan.engine_bundles if config.rollout.engine == "vllm" else ()
        with nodes_agree(placement, cluster, files, to_pass, vllm_bundles):
            engine_builds = [] if colocated else engine.start_build(build_engine, transfers, images)
            if build_trainer is not None:
                ranks = group(TrainerWorker, plan.ranks, plan.rank_bundles)
                trainer = RayTrainer(ranks, config.rollout.weight_transfer, cluster.call_timeout_s, report)
                stack.callback(unless_ending, trainer.close)
                stack.enter_context(watchdog.on_stall(trainer.dump_stacks))
                limits = cluster.start_timeout_s, cluster.call_timeout_s
                rank_builds = trainer.start_build(build_trainer, transfers, images, *limits)
        if trainer is not None:
            trainer.finish_build(rank_builds, cluster.start_timeout_s)
            if colocated:  # one after the other: a vLLM engine needs its share of the GPU to be free while it starts
                trainer.offload()
                engine_builds = engine.start_build(
                    build_engine, transfers, images, lambda: gpus_of_engines(trainer.gpus(), plan)
                )
        engine.finish_build(engine_builds, cluster.start_timeout_s)
        yield take_turns(engine, trainer) if colocated and trainer is not None else (engine, trainer)


def _layout(config: TrainConfig, with_trainer: bool, colocated: bool) -> Layout:
    return layout(
        config.rollout.num_workers,
        config.rollout.tensor_parallel_size,
        config.actor.num_workers if with_trainer else 0,
        config.cluster.cpus_per_worker,
        on_gpu=config.cluster.device == "cuda",
        shared=colocated,
    )


def unless_ending(close: Callable[[], None]) -> None:
    """Call `close`, but not if the process is ending early.

    Then the workers may be busy, and the end of the connection to Ray ends them.
    """
    if interrupts.reason() is None:
        close()
