"""`EngineWorker`: one rollout engine in a Ray worker."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mars import faults
from mars.cluster.environment import gc_paused
from mars.cluster.gathering import Gathering
from mars.cluster.weights import BuildTransfer
from mars.cluster.worker import Worker, is_cancelled
from mars.cluster.worker_images import OWN_FILES, ImageAccess
from mars.data.pixels.images import DecodeImage
from mars.errors import WorkerError
from mars.rollout.engine import EngineCounts, FinishedSample, RolloutEngine, UnreadableRequest
from mars.rollout.window import Feed, Part
from mars.types import RolloutRequest, WeightUpdate

BuildEngine = Callable[[Callable[[Any], Iterable[tuple[str, Any]]], DecodeImage], RolloutEngine]
"""Builds an engine from a function that turns a `WeightUpdate.payload` into (name, tensor) pairs, and the decoder.

Pickled and called on the worker."""


@dataclass(frozen=True)
class _Generation:
    """A call of the engine's `generate`, whose requests come in parts. counts_before: the engine's, before the call."""

    feed: Feed
    gathering: Gathering[FinishedSample | UnreadableRequest]
    counts_before: EngineCounts
    messages: Iterator[list[FinishedSample | UnreadableRequest]]


class EngineWorker(Worker):
    """One engine in one Ray actor process."""

    _has_all_weights = True  # at first those of model.path
    _images = OWN_FILES  # until `build`
    _generation: _Generation | None = None

    def see_gpus(self, gpus: Sequence[str]) -> None:
        """Use these GPUs, which other workers own. Call it before `build`, which initialises CUDA."""
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)

    def build(self, build_engine: BuildEngine, build_transfer: BuildTransfer, images: ImageAccess) -> None:
        with gc_paused():
            self._transfer, self._images = build_transfer(self.name), images.open()
            self._engine = build_engine(self._transfer.receive, self._images.decode)

    def generate(self, part: Part) -> Iterator[list[FinishedSample | UnreadableRequest] | EngineCounts]:
        """Yield lists of finished samples, one list per message.

        The requests of a generation come in parts, one call for each. A call ends when the engine has taken the part's
        requests and has room for one more; the call with the next part continues the generation. At least
        `part.message_gap_s` pass between two messages, also of different calls. When all samples are finished, the call
        with the last part yields those not sent yet, however short the time since the last message, and then the
        counts of the generation. If the driver cancels a call, the generation ends at the engine's next
        answer. Its counts are not sent then, and calls with its other parts do nothing.
        Raises WorkerError if the last `load_weights` failed: the engine may have some old and some new weights.
        """
        if not self._has_all_weights:
            raise WorkerError(f"{self.name} has not all weights of its last update")
        if part.is_first:
            self.let_go()
            feed, gathering = Feed(), Gathering[FinishedSample | UnreadableRequest](part.message_gap_s)
            self._generation = _Generation(feed, gathering, self._engine.counts(), self._engine.generate(feed))
        if self._generation is None:
            return
        generation = self._generation
        self._images.expect(image for request in part.requests for image in request.images)
        generation.feed.add(part)
        for samples in generation.messages:
            if is_cancelled():
                self.let_go()
                return
            if due := generation.gathering.due(samples):
                faults.point("engine.samples")
                yield due
            if generation.feed.is_waited_for:
                return
        self._generation = None
        if rest := generation.gathering.rest():
            yield rest
        yield self._engine.counts() - generation.counts_before

    def let_go(self) -> None:
        """End the current generation, if there is one."""
        generation, self._generation = self._generation, None
        if generation is not None and isinstance(generation.messages, Generator):
            generation.messages.close()

    def prefetch(self, requests: Sequence[RolloutRequest]) -> None:
        self._images.expect((image for request in requests for image in request.images), ahead=True)
        self._engine.prefetch(requests)

    def load_weights(self, update: WeightUpdate) -> None:
        faults.point("engine.load_weights")
        self.let_go()
        self._has_all_weights = False
        try:
            self._engine.load_weights(update)
        except BaseException:
            self._transfer.leave()
            raise
        self._has_all_weights = True

    def sleep(self) -> None:
        self.let_go()
        self._engine.sleep()

    def wake(self) -> None:
        self._engine.wake()

    def close(self) -> None:
        if hasattr(self, "_engine"):
            self._engine.close()
