"""`RayEngine`: rollout engines on Ray workers behind the `RolloutEngine` interface."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import ray

from mars import faults
from mars.cluster.environment import gc_paused
from mars.cluster.restarts import RestartBudget, WorkerReport, no_report
from mars.cluster.worker import Worker
from mars.cluster.worker_group import WorkerGroup
from mars.errors import WorkerError, WorkerLost
from mars.rollout.engine import EngineCounts, FinishedSample, RolloutEngine, UnreadableRequest
from mars.types import RolloutRequest, WeightUpdate

logger = logging.getLogger(__name__)

BuildEngine = Callable[[Callable[[Any], Iterable[tuple[str, Any]]]], RolloutEngine]
"""Builds an engine from a function that turns a `WeightUpdate.payload` into (name, tensor) pairs.

Pickled and called on the worker."""


class EngineWorker(Worker):
    """One engine in one Ray actor process."""

    def build(self, build_engine: BuildEngine) -> None:
        with gc_paused():
            self._engine = build_engine(_fetch_object)

    def generate(
        self, requests: Sequence[RolloutRequest]
    ) -> Iterator[list[FinishedSample | UnreadableRequest] | EngineCounts]:
        """Yield the engine's lists of finished samples, one list per message, then its counts as the last message."""
        for samples in self._engine.generate(requests):
            faults.point("engine.samples")
            yield samples
        yield self._engine.counts()

    def prefetch(self, requests: Sequence[RolloutRequest]) -> None:
        self._engine.prefetch(requests)

    def load_weights(self, update: WeightUpdate) -> None:
        faults.point("engine.load_weights")
        self._engine.load_weights(update)

    def close(self) -> None:
        if hasattr(self, "_engine"):
            self._engine.close()


class RayEngine:
    """Splits each call over the engines of the group. All requests of a prompt go to the same engine.

    An engine that dies, hangs or raises is replaced: the new one gets the current weights and repeats the requests of
    the lost one with the same seeds, and samples that have arrived already are not given out again.
    """

    def __init__(self, group: WorkerGroup, report: WorkerReport = no_report) -> None:
        self._group, self._report = group, report
        self._counts = [EngineCounts() for _ in group.workers]
        # What the engines before this one had counted, for each worker.
        self._counted_before = [EngineCounts() for _ in group.workers]
        self._restarts = RestartBudget()
        self._weights: WeightUpdate | None = None

    def dump_stacks(self) -> None:
        self._group.dump_stacks()

    def start_build(self, build_engine: BuildEngine) -> list[Any]:
        """Start building every engine; returns one Ray reference per engine for `finish_build`."""
        self._build_engine = build_engine
        return [worker.build.remote(build_engine) for worker in self._group.workers]

    def finish_build(self, references: Sequence[Any], timeout_s: float) -> None:
        self._start_timeout_s = timeout_s
        self._group.results(references, "start of the engine", timeout_s)

    def generate(self, requests: Sequence[RolloutRequest]) -> Iterator[list[FinishedSample | UnreadableRequest]]:
        shares = split_by_prompt(requests, len(self._group.workers))
        arguments = [[requests[i] for i in share] for share in shares]
        given_out: set[tuple[int, int | None]] = set()
        for engine, message in self._group.streams("generate", arguments, self._replace):
            if isinstance(message, EngineCounts):
                self._counts[engine] = self._counted_before[engine] + message
                continue
            items = [replace(item, request=shares[engine][item.request]) for item in message]
            fresh = [item for item in items if _place(item) not in given_out]
            given_out.update(map(_place, fresh))
            if fresh:
                yield fresh
        self._restarts.progress()

    def prefetch(self, requests: Sequence[RolloutRequest]) -> None:
        shares = split_by_prompt(requests, len(self._group.workers))
        hints = [
            worker.prefetch.remote([requests[i] for i in share])
            for worker, share in zip(self._group.workers, shares, strict=True)
        ]
        self._replace_failed(self._group.outcomes(hints, "prefetch"))

    def counts(self) -> EngineCounts:
        return sum(self._counts, EngineCounts(restarts=self._restarts.total))

    def load_weights(self, update: WeightUpdate) -> None:
        self._weights = update
        loads = [worker.load_weights.remote(update) for worker in self._group.workers]
        self._replace_failed(self._group.outcomes(loads, "load_weights"))

    def close(self) -> None:
        self._group.close()

    def _replace_failed(self, outcomes: Sequence[Any]) -> None:
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, WorkerError):
                self._replace(index, outcome)

    def _replace(self, index: int, error: WorkerError) -> None:
        """Raises WorkerError if too many engines in a row were lost."""
        name = self._group.name(index)
        while True:
            self._report("worker_lost", name, str(error))
            self._restarts.spend(error)
            logger.warning("%s; the engine is replaced, and its prompts are sampled again", error)
            self._counted_before[index] = self._counts[index]
            self._group.replace(index)
            worker = self._group.workers[index]
            try:
                building = worker.build.remote(self._build_engine)
                self._group.results([building], "build", self._start_timeout_s, first=index)
                if self._weights is not None:
                    self._group.results([worker.load_weights.remote(self._weights)], "load_weights", first=index)
                self._report("worker_replaced", name, str(error))
                return
            except WorkerLost as again:
                error = again


def _place(item: FinishedSample | UnreadableRequest) -> tuple[int, int | None]:
    return item.request, item.index if isinstance(item, FinishedSample) else None


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
