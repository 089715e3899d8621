"""Reserve the cluster's resources for the workers: one bundle per worker, all bundles or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from mars.errors import SetupError


@dataclass(frozen=True)
class WorkerResources:
    """Resources of one worker process. cpus: Ray CPUs, which may be fractions."""

    name: str
    cpus: float
    gpus: int

    def bundle(self) -> dict[str, float]:
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})


class Placement:
    """Reserves the workers' resources on the Ray cluster. Worker i gets bundle i.

    timeout_s: how long to wait until other jobs free the resources.
    Raises SetupError with a have/want table if the cluster is too small or still busy after timeout_s.
    """

    def __init__(self, workers: Sequence[WorkerResources], timeout_s: float) -> None:
        self._check(workers)
        self._group: PlacementGroup = placement_group([worker.bundle() for worker in workers], strategy="PACK")
        if not self._group.wait(timeout_s):
            table = _table(workers, ray.available_resources())
            remove_placement_group(self._group)
            raise SetupError(
                f"cluster: the workers' resources were not free within {timeout_s:g} s\n{table}\n"
                "wait for other jobs, or ask for fewer workers (actor.num_workers, rollout.num_workers)"
            )

    @property
    def group(self) -> PlacementGroup:
        return self._group

    def close(self) -> None:
        remove_placement_group(self._group)

    @staticmethod
    def _check(workers: Sequence[WorkerResources]) -> None:
        have = ray.cluster_resources()
        wanted = _totals(workers)
        if any(have.get(kind, 0) < amount for kind, amount in wanted.items()):
            raise SetupError(
                f"cluster: too small for the workers\n{_table(workers, have)}\n"
                "ask for fewer workers (actor.num_workers, rollout.num_workers, rollout.tensor_parallel_size), "
                "join a larger cluster (cluster.address), or use cluster.device=cpu"
            )


def _totals(workers: Sequence[WorkerResources]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for worker in workers:
        for kind, amount in worker.bundle().items():
            totals[kind] = totals.get(kind, 0) + amount
    return totals


def _table(workers: Sequence[WorkerResources], have: dict[str, float]) -> str:
    rows = [f"  {kind:4} have {have.get(kind, 0):g}, want {amount:g}" for kind, amount in _totals(workers).items()]
    return "\n".join([*rows, "  for " + ", ".join(worker.name for worker in workers)])
