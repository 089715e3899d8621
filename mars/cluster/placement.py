"""Which workers a run has and which of them share GPUs; reserving their resources on the cluster, all or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import ray
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from mars.errors import SetupError


@dataclass(frozen=True)
class WorkerResources:
    """Resources of one worker process. cpus: Ray CPUs, which may be fractions."""

    name: str
    cpus: float
    gpus: int

    def bundle(self) -> dict[str, float]:
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})


@dataclass(frozen=True)
class Layout:
    """The workers of a run. bundles: workers that Ray reserves resources for together, on one node.

    engine_bundles, rank_bundles: for each engine and each rank, the index of its bundle.
    """

    engines: Sequence[WorkerResources]
    ranks: Sequence[WorkerResources]
    engine_bundles: Sequence[int]
    rank_bundles: Sequence[int]

    @property
    def bundles(self) -> list[list[WorkerResources]]:
        found: list[list[WorkerResources]] = [[] for _ in {*self.engine_bundles, *self.rank_bundles}]
        for worker, bundle in zip(
            (*self.engines, *self.ranks), (*self.engine_bundles, *self.rank_bundles), strict=True
        ):
            found[bundle].append(worker)
        return found


def layout(num_engines: int, gpus_per_engine: int, num_ranks: int, cpus: float, on_gpu: bool, shared: bool) -> Layout:
    """Each worker has a bundle of its own; or, if `shared`, an engine has one together with the ranks on its GPUs.

    In a shared bundle the ranks own the GPUs, one each, because Ray gives no GPU to two workers. The engine owns none,
    and is told which they are: `gpus_of_engines`.
    """
    engine_gpus = gpus_per_engine if on_gpu and not shared else 0
    engines = [WorkerResources(f"engine-{i}", cpus, engine_gpus) for i in range(num_engines)]
    ranks = [WorkerResources(f"actor-{i}", cpus, int(on_gpu)) for i in range(num_ranks)]
    of_ranks = (
        [i // gpus_per_engine for i in range(num_ranks)] if shared else [num_engines + i for i in range(num_ranks)]
    )
    return Layout(engines, ranks, range(num_engines), of_ranks)


def gpus_of_engines(gpus_of_ranks: Sequence[Sequence[str]], layout: Layout) -> list[list[str]]:
    """The GPUs of each engine: those of all ranks in its bundle, sorted.

    Example: two engines, ranks with GPUs 1, 0, 3, 2 -> [[0, 1], [2, 3]].
    """
    found: list[list[str]] = [[] for _ in layout.engines]
    for bundle, gpus in zip(layout.rank_bundles, gpus_of_ranks, strict=True):
        found[bundle] += gpus
    return [sorted(gpus) for gpus in found]


class Placement:
    """Reserves the workers' resources on the Ray cluster. bundles: the workers of each bundle, which is on one node.

    timeout_s: how long to wait until other jobs free the resources.
    Raises SetupError with a have/want table if the cluster is too small or still busy after timeout_s.
    """

    def __init__(self, bundles: Sequence[Sequence[WorkerResources]], timeout_s: float) -> None:
        workers = [worker for bundle in bundles for worker in bundle]
        self._check(workers)
        self._group: PlacementGroup = placement_group([_totals(bundle) for bundle in bundles], strategy="PACK")
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

    def has_room(self, bundle: int) -> bool:
        """Whether the resources of this bundle are reserved on a node. Ray looks for another one if it is lost."""
        return bool(placement_group_table(self._group)["bundles_to_node_id"][bundle])

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
