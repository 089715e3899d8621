"""`RayEngine`: rollout engines on Ray workers behind the `RolloutEngine` interface."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import ray

from mars.cluster.environment import gc_paused
from mars.cluster.worker_group import Worker, WorkerGroup
from mars.rollout.engine import EngineCounts, FinishedSample, RolloutEngine
from mars.types import RolloutRequest, WeightUpdate

BuildEngine = Callable[[Callable[[Any], Iterable[tuple[str, Any]]]], RolloutEngine]
"""Builds an engine from a function that turns a `WeightUpdate.payload` into (name, tensor) pairs.

Pickled and called on the worker."""


class EngineWorker(Worker):
    """One engine in one Ray actor process."""

    def build(self, build_engine: BuildEngine) -> None:
        with gc_paused():
            self._engine = build_engine(_fetch_object)

    def generate(self, requests: Sequence[RolloutRequest]) -> Iterator[list[FinishedSample] | EngineCounts]:
        """Yield the finished samples, one message per list, then the engine's counts as the last message."""
        yield from self._engine.generate(requests)
        yield self._engine.counts()

    def prefetch(self, requests: Sequence[RolloutRequest]) -> None:
        self._engine.prefetch(requests)

    def load_weights(self, update: WeightUpdate) -> None:
        self._engine.load_weights(update)

    def close(self) -> None:
        if hasattr(self, "_engine"):
            self._engine.close()


class RayEngine:
    """Splits each call over the engines of the group. All requests of a prompt go to the same engine."""

    def __init__(self, group: WorkerGroup) -> None:
        self._group = group
        self._counts = [EngineCounts() for _ in group.workers]

    def start_build(self, build_engine: BuildEngine) -> list[Any]:
        """Start building every engine; returns one Ray reference per engine for `finish_build`."""
        return [worker.build.remote(build_engine) for worker in self._group.workers]

    def finish_build(self, references: Sequence[Any], timeout_s: float) -> None:
        self._group.results(references, "start of the engine", timeout_s)

    def generate(self, requests: Sequence[RolloutRequest]) -> Iterator[list[FinishedSample]]:
        shares = split_by_prompt(requests, len(self._group.workers))
        arguments = [[requests[i] for i in share] for share in shares]
        for engine, message in self._group.streams("generate", arguments):
            if isinstance(message, EngineCounts):
                self._counts[engine] = message
            else:
                yield [FinishedSample(shares[engine][s.request], s.index, s.completion) for s in message]

    def prefetch(self, requests: Sequence[RolloutRequest]) -> None:
        shares = split_by_prompt(requests, len(self._group.workers))
        hints = [
            worker.prefetch.remote([requests[i] for i in share])
            for worker, share in zip(self._group.workers, shares, strict=True)
        ]
        self._group.results(hints, "prefetch")

    def counts(self) -> EngineCounts:
        return sum(self._counts, EngineCounts())

    def load_weights(self, update: WeightUpdate) -> None:
        self._group.results([worker.load_weights.remote(update) for worker in self._group.workers], "load_weights")

    def close(self) -> None:
        self._group.close()


def split_by_prompt(requests: Sequence[RolloutRequest], num_engines: int) -> list[list[int]]:
    """Indices of the requests of each engine, dealing prompts to the engines in turn.

    All views of a prompt go to one engine, so that its encoder and prefix caches serve them.
    Example: requests of prompts a, a, b, c on two engines -> [[0, 1, 3], [2]].
    """
    shares: list[list[int]] = [[] for _ in range(num_engines)]
    engine_of: dict[str, int] = {}
    for i, request in enumerate(requests):
        engine = engine_of.setdefault(request.prompt_id, len(engine_of) % num_engines)
        shares[engine].append(i)
    return shares


def _fetch_object(payload: Any) -> Iterable[tuple[str, Any]]:
    return iter(ray.get(payload).items())
