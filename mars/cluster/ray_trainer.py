"""FSDP ranks on Ray workers behind the `PolicyTrainer` interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray

from mars.actor.trainer import PolicyTrainer, Rendezvous
from mars.cluster.environment import gc_paused, give_back_memory
from mars.cluster.worker_group import Worker, WorkerGroup
from mars.types import TrainBatch, UpdateStats, WeightUpdate

BuildTrainer = Callable[[Rendezvous], PolicyTrainer]
"""Pickled and called on the worker."""

_GIVE_BACK_EVERY = 32  # updates


class TrainerWorker(Worker):
    """One FSDP rank."""

    _num_updates = 0

    def receive(self, build_trainer: BuildTrainer) -> None:
        """Keep the builder. Unpickling the argument imports torch, before `build` is timed."""
        self._build_trainer = build_trainer

    def build(self, rendezvous: Rendezvous) -> None:
        with gc_paused():
            self._trainer = self._build_trainer(rendezvous)

    def update(self, batch: TrainBatch) -> UpdateStats:
        self._num_updates += 1
        if self._num_updates % _GIVE_BACK_EVERY == 0:
            give_back_memory()
        return self._trainer.update(batch)

    def kl_to_reference(self, batch: TrainBatch) -> list[tuple[float, ...]]:
        return self._trainer.kl_to_reference(batch)

    def publish_weights(self) -> WeightUpdate:
        """The weights stay in the object store; only a reference leaves this process."""
        update = self._trainer.publish_weights()
        return WeightUpdate(update.version, ray.put(update.payload) if update.payload else None)

    def save(self, path: str) -> None:
        self._trainer.save(path)

    def close(self) -> None:
        if hasattr(self, "_trainer"):
            self._trainer.close()


class RayTrainer:
    """A `PolicyTrainer` that makes every call on all ranks and returns rank 0's result."""

    def __init__(self, group: WorkerGroup) -> None:
        self._group = group

    def start_build(self, build_trainer: BuildTrainer, timeout_s: float, call_timeout_s: float) -> list[Any]:
        """References to the builds under way. call_timeout_s: deadline of the ranks' collectives."""
        workers = self._group.workers
        address_of_first = workers[0].address.remote()
        # A call of its own: the ranks import torch while the first worker starts, whose address `build` needs.
        received = [worker.receive.remote(build_trainer) for worker in workers]
        (address,) = self._group.results([address_of_first], "start of a worker", timeout_s)
        built = [
            worker.build.remote(Rendezvous(rank, len(workers), f"tcp://{address}", call_timeout_s))
            for rank, worker in enumerate(workers)
        ]
        return [*received, *built]

    def finish_build(self, references: Sequence[Any], timeout_s: float) -> None:
        self._group.results(references, "start of the trainer", timeout_s)

    def update(self, batch: TrainBatch) -> UpdateStats:
        shared = ray.put(batch)
        return self._all("update", shared)[0]

    def kl_to_reference(self, batch: TrainBatch) -> list[tuple[float, ...]]:
        shared = ray.put(batch)
        return self._all("kl_to_reference", shared)[0]

    def publish_weights(self) -> WeightUpdate:
        return self._all("publish_weights")[0]

    def save(self, path: str) -> None:
        self._all("save", path)

    def close(self) -> None:
        self._group.close()

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        references = [getattr(worker, method).remote(*arguments) for worker in self._group.workers]
        return self._group.results(references, method)
