"""The interface of everything that generates responses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from mars.types import Completion, RolloutRequest, WeightUpdate


@dataclass(frozen=True)
class FinishedSample:
    """Sample `index` of the request at position `request` of the call."""

    request: int
    index: int
    completion: Completion


@dataclass(frozen=True)
class EngineCounts:
    """Work since the engine was made. It only grows; the difference of two is the work between them.

    images: distinct images of a call, summed over calls (and engines, where there are several).
    encoder_runs: images that passed the vision encoder; `images` if each passed once in its call.
    prompt_tokens: of all samples, images' tokens included. cached_tokens: those among them that came from the prefix
    cache and were not computed again.
    """

    images: int = 0
    encoder_runs: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0

    def __add__(self, other: EngineCounts) -> EngineCounts:
        return EngineCounts(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def __sub__(self, other: EngineCounts) -> EngineCounts:
        return EngineCounts(*(a - b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


class RolloutEngine(Protocol):
    """Generates responses with a versioned policy."""

    def generate(self, requests: Sequence[RolloutRequest]) -> Iterator[list[FinishedSample]]:
        """Samples as they finish, those that finish together in one list.

        Each of the `num_samples` of every request comes exactly once, or an exception is raised. One call at a time;
        closing the iterator ends it.
        """
        ...

    def prefetch(self, requests: Sequence[RolloutRequest]) -> None:
        """A hint, which changes no result: these requests come next.

        Their images may be read and processed while nothing is generated; only the last hint counts. What is wrong
        with an image is raised by the `generate` that needs it.
        """
        ...

    def counts(self) -> EngineCounts:
        """Up to the last sample that was taken."""
        ...

    def load_weights(self, update: WeightUpdate) -> None:
        """Make `update` the policy; every cache that depends on the weights is emptied."""
        ...

    def close(self) -> None:
        """End every process and free all memory this engine holds."""
        ...


def distinct_images(requests: Sequence[RolloutRequest]) -> int:
    """How many different images the requests show together."""
    return len({image for request in requests for image in request.images})
