"""`RolloutEngine`: the interface of everything that generates responses."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from mars.types import Completion, ImageRef, RolloutRequest, WeightUpdate

T = TypeVar("T")


@dataclass(frozen=True)
class FinishedSample:
    """Sample `index` of request number `request` of the call. Both count from 0."""

    request: int
    index: int
    completion: Completion


@dataclass(frozen=True)
class UnreadableRequest:
    """Request number `request` of the call has an image that cannot be read. reason: names the image."""

    request: int
    reason: str


@dataclass(frozen=True)
class EngineCounts:
    """Work of the engine since it was built. Counts only grow; the difference of two is the work between them.

    images: distinct images of the requests that a call has taken, summed over calls and engines.
    encoder_runs: images that passed the vision encoder; equal to `images` if each passed once per call.
    prompt_tokens: prompt tokens of all samples, including image tokens.
    cached_tokens: prompt tokens that came from the prefix cache instead of being computed.
    restarts: number of engines that were lost and replaced.
    absences: number of lost engines that were missing in a call of `generate`, summed over calls.
    """

    images: int = 0
    encoder_runs: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    restarts: int = 0
    absences: int = 0

    def __add__(self, other: EngineCounts) -> EngineCounts:
        return EngineCounts(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def __sub__(self, other: EngineCounts) -> EngineCounts:
        return EngineCounts(*(a - b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


class RolloutEngine(Protocol):
    """Generates responses with the weights of the last `load_weights`."""

    def generate(self, requests: Iterable[RolloutRequest | None]) -> Iterator[list[FinishedSample | UnreadableRequest]]:
        """Yield samples as they finish. Samples that finish together are in one list; a list may be empty.

        requests: taken one by one, as soon as there is room for their samples (mars/rollout/window.py). None instead
            of a request means that the next one has not come yet. The engine then yields an empty list. When the caller
            asks for more samples, the engine first asks `requests` again, and then goes on with the requests that it
            has.

        Yields each of the `num_samples` samples of every request exactly once, or raises. If the images of a request
        cannot be read, the engine yields an `UnreadableRequest` and may leave out samples of this request. Only
        one call may run at a time. Closing the iterator ends the call: the engine
        may go on until it would yield again, and is then free for the next call. See `ended`.
        """
        ...

    def prefetch(self, requests: Sequence[RolloutRequest]) -> None:
        """Tell the engine which requests come next, so that it can read and process their images in advance.

        This changes no result. A new call replaces the previous one. An image that cannot be read is not reported
        here, but by the `generate` that needs it.
        """
        ...

    def counts(self) -> EngineCounts:
        """The engine's work up to the last sample that the caller has taken."""
        ...

    def load_weights(self, update: WeightUpdate) -> None:
        """Generate with these weights from now on. Empties every cache that depends on the weights."""
        ...

    def sleep(self) -> None:
        """Free the memory of weights and KV cache. Until `load_weights` and `wake`, `generate` raises RuntimeError."""
        ...

    def wake(self) -> None:
        """After `sleep` and `load_weights`: allocate memory for the KV cache again.

        `load_weights` and `wake` are two calls, so that loading can use the memory that the KV cache takes afterwards.
        Raises RuntimeError if no weights were loaded since `sleep`. Does nothing if the engine is awake.
        """
        ...

    def close(self) -> None:
        """End the engine's processes and free its memory."""
        ...


@contextmanager
def ended(call: Iterator[T]) -> Iterator[Iterator[T]]:
    """Gives the iterator of a `generate`, and closes it at the end of the block.

    Without `ended`, an exception that leaves the block would keep the iterator alive, and the engine would go on as
    long as the exception exists.
    """
    try:
        yield call
    finally:
        if isinstance(call, Generator):
            call.close()


class CallImages:
    """Counts the distinct images in the requests of one call."""

    def __init__(self) -> None:
        self._seen: set[ImageRef] = set()

    def of(self, request: RolloutRequest) -> EngineCounts:
        """An `EngineCounts` whose `images` is the number of distinct images of the request that no earlier one has."""
        before = len(self._seen)
        self._seen.update(request.images)
        return EngineCounts(images=len(self._seen) - before)
