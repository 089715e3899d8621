"""`RayEngine`: rollout engines on Ray workers behind the `RolloutEngine` interface."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from mars import faults
from mars.answers.record import PromptLength
from mars.cluster.environment import gc_paused
from mars.cluster.restarts import RestartBudget, WorkerReport, no_report
from mars.cluster.weights import BuildTransfer, WeightOffer
from mars.cluster.worker import Worker
from mars.cluster.worker_group import WorkerGroup
from mars.cluster.worker_images import OWN_FILES, ImageAccess
from mars.data.pixels.images import DecodeImage
from mars.errors import TransferError, WorkerError, WorkerLost
from mars.rollout.balance import Balancer
from mars.rollout.engine import EngineCounts, FinishedSample, RolloutEngine, UnreadableRequest
from mars.rollout.window import Feed, Part, first_window, in_parts
from mars.types import RolloutRequest, WeightUpdate

logger = logging.getLogger(__name__)

BuildEngine = Callable[[Callable[[Any], Iterable[tuple[str, Any]]], DecodeImage], RolloutEngine]
"""Builds an engine from a function that turns a `WeightUpdate.payload` into (name, tensor) pairs, and the decoder.

Pickled and called on the worker."""


class EngineWorker(Worker):
    """One engine in one Ray actor process."""

    _has_all_weights = True  # at first those of model.path
    _images = OWN_FILES  # until `build`
    _generation: Iterator[list[FinishedSample | UnreadableRequest]] = iter(())

    def see_gpus(self, gpus: Sequence[str]) -> None:
        """Use these GPUs, which other workers own. To be called before `build`, which makes CUDA look."""
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)

    def build(self, build_engine: BuildEngine, build_transfer: BuildTransfer, images: ImageAccess) -> None:
        with gc_paused():
            self._transfer, self._images = build_transfer(self.name), images.open()
            self._engine = build_engine(self._transfer.receive, self._images.decode)

    def generate(self, part: Part) -> Iterator[list[FinishedSample | UnreadableRequest] | EngineCounts]:
        """Yield the engine's lists of finished samples, one list per message.

        If the engine has room for a request after the last one of `part`, this call ends, and the call with the next
        part goes on from there. The call with the last part yields all that is left, then the counts of the generation.
        A generation that the driver has given up is in no counts.
        Raises WorkerError if the last `load_weights` failed: the engine may have some old and some new weights.
        """
        if not self._has_all_weights:
            raise WorkerError(f"{self.name} has not all weights of its last update")
        if part.is_first:
            self._end_generation()
            self._feed, self._counts_before = Feed(), self._engine.counts()
            self._generation = self._engine.generate(self._feed)
        self._images.expect(image for request in part.requests for image in request.images)
        self._feed.add(part)
        for samples in self._generation:
            if samples:
                faults.point("engine.samples")
                yield samples
            if self._feed.is_waited_for:
                return
        yield self._engine.counts() - self._counts_before

    def _end_generation(self) -> None:
        """End a generation whose next part never came, because the driver has given it up."""
        generation, self._generation = self._generation, iter(())
        if isinstance(generation, Generator):
            generation.close()

    def prefetch(self, requests: Sequence[RolloutRequest]) -> None:
        self._images.expect((image for request in requests for image in request.images), ahead=True)
        self._engine.prefetch(requests)

    def load_weights(self, update: WeightUpdate) -> None:
        faults.point("engine.load_weights")
        self._end_generation()
        self._has_all_weights = False
        try:
            self._engine.load_weights(update)
        except BaseException:
            self._transfer.leave()
            raise
        self._has_all_weights = True

    def sleep(self) -> None:
        self._end_generation()
        self._engine.sleep()

    def wake(self) -> None:
        self._engine.wake()

    def close(self) -> None:
        if hasattr(self, "_engine"):
            self._engine.close()


class RayEngine:
    """Splits each call over the engines of the group by expected tokens; a prompt's requests go to the same engine.

    An engine gets its share in parts, the next one while it works on those before (mars/rollout/window.py).
    window: of an engine, in samples.

    An engine that dies, hangs or raises is replaced: the new one gets the current weights and repeats the requests of
    the lost one with the same seeds, and samples that have arrived already are not given out again.
    """

    def __init__(
        self, group: WorkerGroup, prompt_length: PromptLength, window: int, report: WorkerReport = no_report
    ) -> None:
        self._group, self._window, self._report = group, window, report
        self._balancer = Balancer(prompt_length, len(group.workers))
        self._counts = EngineCounts()
        self._restarts = RestartBudget()
        self._weights: WeightUpdate | None = None
        self._is_asleep = False
        self._lost: dict[int, WorkerError] = {}  # while the engines sleep; `wake` replaces them

    def dump_stacks(self) -> None:
        self._group.dump_stacks()

    def start_build(
        self,
        build_engine: BuildEngine,
        build_transfer: BuildTransfer,
        images: ImageAccess,
        gpus: Callable[[], Sequence[Sequence[str]]] | None = None,
    ) -> list[Any]:
        """Start building every engine; returns one Ray reference per engine for `finish_build`.

        gpus: gives those of each engine, if they are those of trainer ranks; None if Ray gives each engine its own. It
        is asked for each start, because Ray may have moved the ranks to another node since.
        """
        self._builders, self._gpus = (build_engine, build_transfer, images), gpus
        return [self._start_build(engine) for engine in range(len(self._group.workers))]

    def _start_build(self, engine: int) -> Any:
        worker = self._group.workers[engine]
        gpus = self._gpus()[engine] if self._gpus is not None else ()
        if gpus:
            worker.see_gpus.remote(gpus)
        return worker.build.remote(*self._builders)

    def finish_build(self, references: Sequence[Any], timeout_s: float) -> None:
        self._start_timeout_s = timeout_s
        self._group.results(references, "start of the engine", timeout_s)

    def generate(self, requests: Iterable[RolloutRequest | None]) -> Iterator[list[FinishedSample | UnreadableRequest]]:
        """Waits for all requests: they are divided over the engines before the first is sent."""
        known: list[RolloutRequest] = []
        for request in requests:
            if request is None:
                yield []
            else:
                known.append(request)
        shares = self._balancer.split(known)
        arguments = [in_parts([known[i] for i in share], self._window) for share in shares]
        given_out: set[tuple[int, int | None]] = set()
        for engine, message in self._group.streams("generate", arguments, self._replace):
            if isinstance(message, EngineCounts):
                self._counts += message
                continue
            items = [replace(item, request=shares[engine][item.request]) for item in message]
            fresh = [item for item in items if _place(item) not in given_out]
            given_out.update(map(_place, fresh))
            if fresh:
                yield fresh
        self._restarts.progress()

    def prefetch(self, requests: Sequence[RolloutRequest]) -> None:
        shares = self._balancer.split(requests)
        hints = {
            engine: self._group.workers[engine].prefetch.remote(
                first_window((requests[i] for i in share), self._window)
            )
            for engine, share in enumerate(shares)
            if engine not in self._lost
        }
        for engine, outcome in self._group.outcomes(hints, "prefetch").items():
            if isinstance(outcome, WorkerError):
                self._replace(engine, outcome)

    def sleep(self) -> None:
        """An engine that fails is replaced at `wake`: a new one needs memory that the trainer now has."""
        self._is_asleep = True
        self._on_each("sleep")

    def wake(self) -> None:
        self._on_each("wake")
        self._is_asleep = False
        while self._lost:
            self._replace(*self._lost.popitem())

    def counts(self) -> EngineCounts:
        return self._counts + EngineCounts(restarts=self._restarts.total)

    def load_weights(self, update: WeightUpdate) -> None:
        """update: its payload is a `WeightOffer`.

        An engine that fails is replaced. One that lacks weights only because another process failed gets them again.
        """
        self._weights = update
        failed = self._load_on([engine for engine in range(len(self._group.workers)) if engine not in self._lost])
        again = [engine for engine, error in failed.items() if isinstance(error, TransferError)]
        failed |= dict.fromkeys(again) | self._load_on(again)
        for engine, error in failed.items():
            if error is not None:
                self._replace(engine, error)

    def close(self) -> None:
        self._group.close()

    def _on_each(self, method: str) -> None:
        workers = {i: worker for i, worker in enumerate(self._group.workers) if i not in self._lost}
        calls = {engine: getattr(worker, method).remote() for engine, worker in workers.items()}
        for engine, outcome in self._group.outcomes(calls, method).items():
            if isinstance(outcome, WorkerError):
                self._replace(engine, outcome)

    def _load_on(self, engines: Sequence[int]) -> dict[int, WorkerError | None]:
        """Give the current weights to these engines: engine -> the error of each that failed.

        Raises WorkerLost if a rank of the trainer was lost meanwhile.
        """
        if self._weights is None or not engines:
            return {}
        offer: WeightOffer = self._weights.payload
        payload = offer.give({engine: self._group.name(engine) for engine in engines}, self._restarts.total)
        update = WeightUpdate(self._weights.version, payload)
        loads = {engine: self._group.workers[engine].load_weights.remote(update) for engine in engines}
        outcomes = self._group.outcomes(loads, "load_weights", failed=offer.abort, meanwhile=offer.look)
        offer.settle()
        return {engine: outcome for engine, outcome in outcomes.items() if isinstance(outcome, WorkerError)}

    def _replace(self, index: int, error: WorkerError) -> None:
        """Raises WorkerError if too many engines in a row were lost.

        While the engines sleep, only ends the engine's process: `wake` does the rest.
        """
        if self._is_asleep:
            self._group.replace(index)
            self._lost[index] = error
            return
        name = self._group.name(index)
        while True:
            self._report("worker_lost", name, str(error))
            self._restarts.spend(error)
            logger.warning("%s; the engine is replaced, and its prompts are sampled again", error)
            self._group.replace(index)
            try:
                self._group.results([self._start_build(index)], "build", self._start_timeout_s, first=index)
            except WorkerLost as again:
                error = again
                continue
            again = self._load_on([index]).get(index)
            if again is None:
                self._report("worker_replaced", name, str(error))
                return
            if not isinstance(again, WorkerLost | TransferError):
                raise again
            error = again


def _place(item: FinishedSample | UnreadableRequest) -> tuple[int, int | None]:
    return item.request, item.index if isinstance(item, FinishedSample) else None
