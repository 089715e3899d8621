"""The ranks of a trainer as Ray workers. They are built and called together, and rebuilt together if one is lost."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from mars import faults
from mars.actor.trainer import RankTrainer, Rendezvous, SupervisedTrainer, UpdateStats
from mars.cluster.environment import trim_heap
from mars.cluster.head import check_head
from mars.cluster.restarts import WorkerReport, no_report
from mars.cluster.successor import Successor, first_running
from mars.cluster.worker import Worker
from mars.cluster.worker_group import WorkerGroup
from mars.cluster.worker_images import OWN_FILES
from mars.errors import TransferError, WorkerError, WorkerLost
from mars.train_types import TrainBatch

_TRIM_EVERY = 32  # updates


class RankWorker(Worker):
    """One FSDP rank in one Ray actor process. Subclasses have `receive`, which sets `_images`, and `build`,
    which sets `_rank` and `_trainer`."""

    _trainer: RankTrainer | SupervisedTrainer
    _images, _rank = OWN_FILES, 0  # until `receive` and `build`
    _num_updates = 0

    def update(self, batch: TrainBatch) -> UpdateStats | Mapping[str, float]:
        self._num_updates += 1
        if self._num_updates % _TRIM_EVERY == 0:
            trim_heap()
        faults.point("actor.before_update")
        self._images.expect_of_rank(batch, self._rank)
        result = self._trainer.update(batch)
        faults.point("actor.after_update")
        return result

    def save(self, path: str) -> None:
        self._trainer.save(path)

    def start_checkpoint(self, folder: str) -> None:
        self._trainer.start_checkpoint(folder)

    def load_checkpoint(self, folder: str) -> None:
        self._trainer.load_checkpoint(folder)

    def close(self) -> None:
        if hasattr(self, "_trainer"):
            self._trainer.close()


class RayRanks:
    """A `RestartableTrainer` whose ranks are Ray workers. Subclasses add the methods that train, such as `update`."""

    def __init__(self, group: WorkerGroup, report: WorkerReport = no_report) -> None:
        self._group, self._report = group, report

    def start(self, received: tuple[Any, ...], timeout_s: float, call_timeout_s: float) -> list[Any]:
        """Start building every rank; returns Ray references for `finish_build`.

        received: arguments of the workers' `receive`. timeout_s: how long to wait for the address of rank 0.
        call_timeout_s: deadline of the ranks' collective calls.
        """
        self._started = (received, timeout_s, call_timeout_s)
        workers = self._group.workers
        address_of_first = workers[0].address.remote()
        # Called before `build`: unpickling its arguments imports torch, while the process of rank 0 still starts.
        receiving = [worker.receive.remote(*received) for worker in workers]
        (address,) = self._group.results([address_of_first], "start of a worker", timeout_s)
        built = [
            worker.build.remote(Rendezvous(rank, len(workers), f"tcp://{address}", call_timeout_s))
            for rank, worker in enumerate(workers)
        ]
        return [*receiving, *built]

    def finish_build(self, references: Sequence[Any], timeout_s: float) -> None:
        self._group.results(references, "start of the trainer", timeout_s)

    def dump_stacks(self) -> None:
        self._group.dump_stacks()

    def restart(self) -> None:
        """End all ranks and build them again, with the weights of model.path.

        All ranks, because the others would wait for the lost one.
        Raises WorkerError if not all ranks have found room after `timeout_s` seconds, an argument of `start`.
        """
        successors = {index: Successor(self._group, index) for index in range(len(self._group.workers))}
        timeout_s = self._started[1]
        until = time.monotonic() + timeout_s
        while successors:
            running = first_running(successors, until, check_head)
            if running is None:
                names = ", ".join(map(self._group.name, successors))
                raise WorkerError(
                    f"cluster: no node had room for {names} within {timeout_s:g} s (cluster.start_timeout_s)"
                )
            del successors[running]
        self.finish_build(self.start(*self._started), timeout_s)
        for index in range(len(self._group.workers)):
            self._report("worker_replaced", self._group.name(index), "all ranks are built again when one is lost")

    def check_alive(self) -> None:
        lost = self._group.lost()
        if lost:
            raise WorkerLost(f"cluster: {', '.join(lost)} died; the workers' logs are in {self._group.log_dir}")

    def save(self, path: str) -> None:
        self._all("save", path)

    def start_checkpoint(self, folder: str) -> None:
        self._all("start_checkpoint", folder)

    def load_checkpoint(self, folder: str) -> None:
        self._all("load_checkpoint", folder)

    def close(self) -> None:
        self._group.close()

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        return self._results([getattr(worker, method).remote(*arguments) for worker in self._group.workers], method)

    def _results(self, references: Sequence[Any], method: str, timeout_s: float | None = None) -> list[Any]:
        try:
            return self._group.results(references, method, timeout_s)
        except (WorkerLost, TransferError):
            raise
        except WorkerError as error:
            # When a rank dies, other ranks fail first: their connections to it break before Ray notices its death.
            lost = self._group.lost()
            if lost:
                raise WorkerLost(f"{error}; {', '.join(lost)} died") from error
            raise
