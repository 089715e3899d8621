"""`RayTrainer`: FSDP ranks on Ray workers behind the `PolicyTrainer` interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import ray

from mars.actor.trainer import RankTrainer, Rendezvous, ResponseScores, UpdateStats
from mars.algorithms.scoring import ScoringSpec, Span
from mars.cluster.environment import gc_paused
from mars.cluster.head import check_head
from mars.cluster.ranks import RankWorker, RayRanks
from mars.cluster.restarts import WorkerReport, no_report
from mars.cluster.weights import BuildTransfer, RankSender, StoredWeights
from mars.cluster.worker_group import WorkerGroup
from mars.cluster.worker_images import ImageAccess
from mars.data.pixels.images import DecodeImage
from mars.train_types import TrainBatch
from mars.types import WeightUpdate
from mars.weights.meeting import Meeting
from mars.weights.transfer import WeightTransfer

BuildTrainer = Callable[[Rendezvous, WeightTransfer, DecodeImage], RankTrainer]
"""Pickled and called on the worker."""


class TrainerWorker(RankWorker):
    """One FSDP rank, a `RankTrainer`, in one Ray actor process."""

    _trainer: RankTrainer

    def receive(self, build_trainer: BuildTrainer, build_transfer: BuildTransfer, images: ImageAccess) -> None:
        """Keep `build_trainer`, a transfer made by `build_transfer`, and the images, for `build`."""
        self._build_trainer, self._transfer = build_trainer, build_transfer(self.name)
        self._images = images.open()

    def build(self, rendezvous: Rendezvous) -> None:
        self._rank = rendezvous.rank
        with gc_paused():
            self._trainer = self._build_trainer(rendezvous, self._transfer, self._images.decode)

    def gpus(self) -> list[str]:
        """Ray's ids of this worker's GPUs."""
        return ray.get_runtime_context().get_accelerator_ids().get("GPU", [])

    def score_responses(
        self, batch: TrainBatch, spec: ScoringSpec, spans: Sequence[Sequence[Span]] | None = None
    ) -> ResponseScores:
        self._images.expect_of_rank(batch, self._rank)
        return self._trainer.score_responses(batch, spec, spans)

    def publish_weights(self) -> WeightUpdate:
        return self._trainer.publish_weights()

    def send_weights(self, meeting: Meeting) -> None:
        self._transfer.meet(meeting)
        self._trainer.send_weights(meeting.version)

    def offload(self) -> None:
        self._trainer.offload()

    def onload(self) -> None:
        self._trainer.onload()


class RayTrainer(RayRanks):
    """Makes each call on every rank and returns the result of rank 0.

    transfer: `rollout.weight_transfer`. timeout_s: deadline for sending weights to the engines.
    """

    _images = ImageAccess(root=None, reader=None, names_node=False, timeout_s=0.0)  # until `start_build`

    def __init__(
        self,
        group: WorkerGroup,
        transfer: str,
        timeout_s: float,
        report: WorkerReport = no_report,
    ) -> None:
        super().__init__(group, report)
        self._sender = None
        if transfer != "object_store":
            self._sender = RankSender(group, self._results, timeout_s, one_each=transfer == "cuda_ipc")

    def start_build(
        self,
        build_trainer: BuildTrainer,
        build_transfer: BuildTransfer,
        images: ImageAccess,
        timeout_s: float,
        call_timeout_s: float,
    ) -> list[Any]:
        """As `start`."""
        self._images = images
        return self.start((build_trainer, build_transfer, images), timeout_s, call_timeout_s)

    def gpus(self) -> list[list[str]]:
        """The GPUs of each rank."""
        return self._all("gpus")

    def restart(self) -> None:
        if self._sender is not None:
            self._sender.forget()
        super().restart()

    def update(self, batch: TrainBatch) -> UpdateStats:
        check_head()
        shared = ray.put(batch)
        stats: UpdateStats = self._all("update", shared)[0]
        return replace(stats, metrics={**stats.metrics, **self._images.metrics()})

    def score_responses(
        self, batch: TrainBatch, spec: ScoringSpec, spans: Sequence[Sequence[Span]] | None = None
    ) -> ResponseScores:
        check_head()
        shared = ray.put(batch)
        return self._all("score_responses", shared, spec, spans)[0]

    def publish_weights(self) -> WeightUpdate:
        """The payload is a `WeightOffer`. If weights go through the object store, they are put there now. Otherwise
        the ranks send nothing until `WeightOffer.give` is called."""
        if self._sender is not None:
            return self._sender.offer()
        update = self._all("publish_weights")[0]
        return WeightUpdate(update.version, StoredWeights(update.payload, self.check_alive))

    def offload(self) -> None:
        self._all("offload")

    def onload(self) -> None:
        self._all("onload")
