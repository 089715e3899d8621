"""`EngineWorker`: one rollout engine in a Ray worker."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

from mars import faults
from mars.cluster.environment import gc_paused
from mars.cluster.gathering import Gathering
from mars.cluster.weights import BuildTransfer
from mars.cluster.worker import Worker
from mars.cluster.worker_images import OWN_FILES, ImageAccess
from mars.data.pixels.images import DecodeImage
from mars.errors import WorkerError
from mars.rollout.engine import EngineCounts, FinishedSample, RolloutEngine, UnreadableRequest
from mars.rollout.window import Feed, Part
from mars.types import RolloutRequest, WeightUpdate

BuildEngine = Callable[[Callable[[Any], Iterable[tuple[str, Any]]], DecodeImage], RolloutEngine]
"""Builds an engine from a function that turns a `WeightUpdate.payload` into (name, tensor) pairs, and the decoder.

Pickled and called on the worker."""


class EngineWorker(Worker):
    """One engine in one Ray actor process."""

    _has_all_weights = True  # at first those of model.path
    _images = OWN_FILES  # until `build`
    _generation: Iterator[list[FinishedSample | UnreadableRequest]] = iter(())
    _gathering: Gathering[FinishedSample | UnreadableRequest]  # of this generation

    def see_gpus(self, gpus: Sequence[str]) -> None:
        """Use these GPUs, which other workers own. To be called before `build`, which makes CUDA look."""
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)

    def build(self, build_engine: BuildEngine, build_transfer: BuildTransfer, images: ImageAccess) -> None:
        with gc_paused():
            self._transfer, self._images = build_transfer(self.name), images.open()
            self._engine = build_engine(self._transfer.receive, self._images.decode)

    def generate(self, part: Part) -> Iterator[list[FinishedSample | UnreadableRequest] | EngineCounts]:
        """Yield lists of finished samples, one list per message.

        If the engine has room for a request after the last one of `part`, this call ends, and the call with the next
        part goes on from there. Between two messages at least `part.message_gap_s` pass, also from one part to the
        next. The call with the last part yields at once what is left when the engine ends, then the counts of the
        generation. A generation that the driver has given up is in no counts.
        Raises WorkerError if the last `load_weights` failed: the engine may have some old and some new weights.
        """
        if not self._has_all_weights:
            raise WorkerError(f"{self.name} has not all weights of its last update")
        if part.is_first:
            self._end_generation()
            self._feed, self._gathering = Feed(), Gathering(part.message_gap_s)
            self._counts_before = self._engine.counts()
            self._generation = self._engine.generate(self._feed)
        self._images.expect(image for request in part.requests for image in request.images)
        self._feed.add(part)
        for samples in self._generation:
            if due := self._gathering.due(samples):
                faults.point("engine.samples")
                yield due
            if self._feed.is_waited_for:
                return
        if rest := self._gathering.rest():
            yield rest
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
