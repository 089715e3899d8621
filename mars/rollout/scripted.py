"""A rollout engine without a model: a function gives the responses. For tests and benchmarks that need no model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from mars.rollout.engine import CallImages, EngineCounts, FinishedSample, UnreadableRequest
from mars.types import Completion, RolloutRequest, WeightUpdate

Script = Callable[[RolloutRequest, int], Sequence[int]]
"""(request, sample index) -> response ids."""


class ScriptedEngine:
    """A `RolloutEngine` whose only state is its counts and the version of its weights.

    The finish reason is "stop" for a response that ends with one of `eos_ids`, else "length".
    """

    def __init__(self, script: Script, eos_ids: Sequence[int]) -> None:
        self._counts, self._version = EngineCounts(), 0
        self._script = script
        self._eos_ids = frozenset(eos_ids)

    def generate(self, requests: Iterable[RolloutRequest | None]) -> Iterator[list[FinishedSample | UnreadableRequest]]:
        images, i = CallImages(), 0
        for request in requests:
            if request is None:
                yield []
                continue
            self._counts += images.of(request)
            yield [FinishedSample(i, k, self._completion(request, k)) for k in range(request.num_samples)]
            i += 1

    def prefetch(self, requests: Sequence[RolloutRequest]) -> None:
        """Does nothing."""

    def counts(self) -> EngineCounts:
        """Only `images` grows, because there is no encoder, and no prompt is computed."""
        return self._counts

    def load_weights(self, update: WeightUpdate) -> None:
        """Only notes the version."""
        self._version = update.version

    def sleep(self) -> None:
        """Does nothing."""

    def wake(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""

    def _completion(self, request: RolloutRequest, index: int) -> Completion:
        token_ids = tuple(self._script(request, index))[: request.sampling.max_response_tokens]
        stopped = bool(token_ids) and token_ids[-1] in self._eos_ids
        return Completion(token_ids, (0.0,) * len(token_ids), "stop" if stopped else "length", self._version)


def random_script(vocabulary: Sequence[int], eos_id: int) -> Script:
    """Random responses of random length. They depend only on the sample's seed and on `max_response_tokens`."""
    from random import Random

    def script(request: RolloutRequest, index: int) -> Sequence[int]:
        random = Random(request.seed + index)
        length = random.randint(0, request.sampling.max_response_tokens - 1)
        return (*random.choices(vocabulary, k=length), eos_id)

    return script


def full_length_script(vocabulary: Sequence[int]) -> Script:
    """Random responses of `max_response_tokens` tokens. They depend only on the sample's seed."""
    from random import Random

    def script(request: RolloutRequest, index: int) -> Sequence[int]:
        return Random(request.seed + index).choices(vocabulary, k=request.sampling.max_response_tokens)

    return script
