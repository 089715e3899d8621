"""`RaySupervised`: the ranks of a cold start on Ray workers behind the `SupervisedTrainer` interface."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import ray

from mars import watchdog
from mars.actor.trainer import Rendezvous, SupervisedTrainer
from mars.cluster.environment import gc_paused, worker_environment
from mars.cluster.head import check_head
from mars.cluster.layout import layout
from mars.cluster.node_check import nodes_agree
from mars.cluster.node_facts import SharedFiles
from mars.cluster.placement import reserved
from mars.cluster.ranks import RankWorker, RayRanks
from mars.cluster.ray_launch import unless_ending
from mars.cluster.restarts import WorkerReport
from mars.cluster.runtime import ray_cluster
from mars.cluster.worker_group import WorkerGroup
from mars.cluster.worker_images import ImageAccess, image_access
from mars.config.schema import SftConfig
from mars.data.pixels.images import DecodeImage
from mars.train_types import TrainBatch

BuildSupervised = Callable[[Rendezvous, DecodeImage], SupervisedTrainer]
"""Pickled and called on the worker."""


class SupervisedWorker(RankWorker):
    """One FSDP rank of a `SupervisedTrainer` in one Ray actor process."""

    _trainer: SupervisedTrainer

    def receive(self, build_trainer: BuildSupervised, images: ImageAccess) -> None:
        """Keep both for `build`."""
        self._build_trainer, self._images = build_trainer, images.open()

    def build(self, rendezvous: Rendezvous) -> None:
        self._rank = rendezvous.rank
        with gc_paused():
            self._trainer = self._build_trainer(rendezvous, self._images.decode)

    def losses(self, batch: TrainBatch) -> Sequence[float]:
        self._images.expect_of_rank(batch, self._rank)
        return self._trainer.losses(batch)


class RaySupervised(RayRanks):
    """Makes each call on every rank and returns the result of rank 0; `update` adds the metrics of the sent images."""

    def __init__(self, group: WorkerGroup, images: ImageAccess, report: WorkerReport) -> None:
        super().__init__(group, report)
        self._images = images

    def update(self, batch: TrainBatch) -> Mapping[str, float]:
        check_head()
        return {**self._all("update", ray.put(batch))[0], **self._images.metrics()}

    def losses(self, batch: TrainBatch) -> Sequence[float]:
        check_head()
        return self._all("losses", ray.put(batch))[0]


@contextmanager
def ray_ranks(
    config: SftConfig, build_trainer: BuildSupervised, files: SharedFiles, log_dir: Path, report: WorkerReport
) -> Iterator[RaySupervised]:
    """Build the ranks on Ray workers; stop them when the block ends.

    files: that all nodes must have. log_dir: for the workers' logs. report: called when a worker is lost or replaced.
    """
    cluster, log_dir = config.cluster, log_dir.absolute()
    plan = layout(0, 1, config.sft.num_workers, cluster.cpus_per_worker, on_gpu=cluster.device == "cuda", shared=False)
    environment = worker_environment(cluster.threads_per_worker, cluster.device)
    num_cpus = max(math.ceil(sum(worker.cpus for worker in plan.ranks)), config.sft.num_workers)
    with ExitStack() as stack:
        started = ray_cluster(cluster.address, cluster.object_store_bytes, num_cpus, environment, log_dir)
        to_pass = stack.enter_context(started)
        placement = reserved(plan, cluster, config.sft.fsdp_size)
        stack.callback(unless_ending, placement.close)
        group = WorkerGroup(
            SupervisedWorker, plan.ranks, placement, plan.rank_bundles, to_pass, str(log_dir), cluster.call_timeout_s
        )
        images = stack.enter_context(image_access(config.data, cluster, to_pass, log_dir))
        trainer = RaySupervised(group, images, report)
        stack.callback(unless_ending, trainer.close)
        stack.enter_context(watchdog.on_stall(trainer.dump_stacks))
        with nodes_agree(placement, cluster, files, to_pass, ()):
            builds = trainer.start((build_trainer, images), cluster.start_timeout_s, cluster.call_timeout_s)
        trainer.finish_build(builds, cluster.start_timeout_s)
        yield trainer
