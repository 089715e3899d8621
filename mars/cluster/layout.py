"""The workers of a run, and which of them share GPUs and so must be on one node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
    """Each worker has its own bundle. If `shared`, an engine is in one bundle with the ranks on its GPUs.

    In a shared bundle the ranks own the GPUs, one each, because Ray gives no GPU to two workers. The engine owns none;
    `gpus_of_engines` tells it which GPUs to use.
    """
    engine_gpus = gpus_per_engine if on_gpu and not shared else 0
    engines = [WorkerResources(f"engine-{i}", cpus, engine_gpus) for i in range(num_engines)]
    ranks = [WorkerResources(f"actor-{i}", cpus, int(on_gpu)) for i in range(num_ranks)]
    of_ranks = (
        [i // gpus_per_engine for i in range(num_ranks)] if shared else [num_engines + i for i in range(num_ranks)]
    )
    return Layout(engines, ranks, range(num_engines), of_ranks)


def gpus_of_engines(gpus_of_ranks: Sequence[Sequence[str]], layout: Layout) -> list[list[str]]:
    """The GPUs of each engine: the GPUs of all ranks in its bundle, sorted.

    Example: two engines, ranks with GPUs 1, 0, 3, 2 -> [[0, 1], [2, 3]].
    """
    found: list[list[str]] = [[] for _ in layout.engines]
    for bundle, gpus in zip(layout.rank_bundles, gpus_of_ranks, strict=True):
        found[bundle] += gpus
    return [sorted(gpus) for gpus in found]


def totals(workers: Sequence[WorkerResources]) -> dict[str, float]:
    """The resources that these workers need together, by Ray's names."""
    found: dict[str, float] = {}
    for worker in workers:
        for kind, amount in worker.bundle().items():
            found[kind] = found.get(kind, 0) + amount
    return found
