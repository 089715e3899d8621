"""One call of `VllmEngine.generate`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from mars.errors import DataError
from mars.rollout.engine import CallImages, EngineCounts, FinishedSample, UnreadableRequest
from mars.rollout.window import Intake, samples_in_window
from mars.types import Completion, RolloutRequest

# (request name, sample index) -> outputs so far of a sample that has not finished.
Begun = dict[tuple[str, int], list[Any]]


@dataclass(frozen=True)
class VllmParts:
    """What a call uses of its engine.

    engine: vLLM's LLMEngine. max_num_seqs: samples that it generates at once. names: unique names for its requests.
    render: starts to read and process a request's images; the future gives the prompt in vLLM's form.
    sampling_params: request -> vLLM's sampling parameters. count: adds to the engine's counts. version: of its weights.
    """

    engine: Any
    max_num_seqs: int
    names: Iterator[str]
    render: Callable[[RolloutRequest], Future[Any]]
    sampling_params: Callable[[RolloutRequest], Any]
    count: Callable[[EngineCounts], None]
    version: int


@dataclass
class _Taken:
    """number: of the request in the call. unfinished: number of samples that vLLM has not finished."""

    number: int
    request: RolloutRequest
    prompt: Future[Any]
    unfinished: int


class VllmCall:
    """Gives vLLM requests for as many samples as it can run at once. The next requests' images are read meanwhile.

    vLLM starts requests in the order in which it gets them. So its batches and its cache hits are the same as if it had
    all requests of the call from the start.
    """

    def __init__(self, parts: VllmParts, requests: Iterable[RolloutRequest | None]) -> None:
        self._parts = parts
        self._intake = Intake(requests, samples_in_window(parts.max_num_seqs), num_drawn)
        self._images = CallImages()
        self._ahead: deque[_Taken] = deque()
        self._running: dict[str, _Taken] = {}  # by vLLM's name of the request
        self._num_running = 0  # samples
        self._begun: Begun = {}

    def finished(self) -> Iterator[list[FinishedSample | UnreadableRequest]]:
        """As `RolloutEngine.generate`."""
        engine = self._parts.engine
        try:
            while self._ahead or self._running or not self._intake.is_over:
                self._take()
                if self._intake.is_waiting:
                    yield []
                elif refused := self._schedule():
                    yield refused
                elif engine.has_unfinished_requests():
                    yield self._step()
                elif self._running:
                    raise RuntimeError(f"vLLM left {len(self._running)} requests without all their samples")
        finally:
            for taken in self._ahead:
                taken.prompt.cancel()
            if self._running:  # the caller stopped early or an error occurred: the next call must not get these samples
                engine.abort_request(list(self._running))

    def _take(self) -> None:
        for number, request in self._intake.take():
            self._parts.count(self._images.of(request))
            self._ahead.append(_Taken(number, request, self._parts.render(request), num_drawn(request)))

    def _schedule(self) -> list[FinishedSample | UnreadableRequest]:
        """Give vLLM requests until it has enough samples. Returns the requests that cannot be read."""
        refused: list[FinishedSample | UnreadableRequest] = []
        while self._ahead and self._num_running < self._parts.max_num_seqs:
            taken = self._ahead.popleft()
            try:
                prompt = taken.prompt.result()
            except DataError as error:
                self._intake.unfinished -= taken.unfinished
                refused.append(UnreadableRequest(taken.number, str(error)))
                continue
            name = next(self._parts.names)
            self._parts.engine.add_request(name, prompt, self._parts.sampling_params(taken.request))
            self._running[name] = taken
            self._num_running += taken.unfinished
        return refused

    def _step(self) -> list[FinishedSample | UnreadableRequest]:
        found: list[FinishedSample | UnreadableRequest] = []
        for output, parts in ended(self._parts.engine.step(), self._begun):
            taken = self._running[output.request_id]
            taken.unfinished -= 1
            self._num_running -= 1
            self._intake.unfinished -= 1
            if not taken.unfinished:
                del self._running[output.request_id]
            self._parts.count(
                EngineCounts(prompt_tokens=len(output.prompt_token_ids), cached_tokens=output.num_cached_tokens)
            )
            found += samples(taken.number, taken.request, parts, self._parts.version)
        return found


def num_drawn(request: RolloutRequest) -> int:
    """How many samples vLLM draws: one for a greedy request, because all samples are equal and vLLM refuses n > 1."""
    return 1 if request.sampling.temperature == 0 else request.num_samples


def ended(outputs: Iterable[Any], begun: Begun) -> Iterator[tuple[Any, list[Any]]]:
    """Yield (output, parts in order) for each sample that finishes in these outputs of vLLM.

    vLLM returns a sample in parts; each part has the tokens since the previous part.
    begun: the parts of each unfinished sample so far; updated in place.
    """
    for output in outputs:
        for part in output.outputs:
            parts = begun.setdefault((output.request_id, part.index), [])
            parts.append(part)
            if part.finish_reason is not None:
                yield output, begun.pop((output.request_id, part.index))


def samples(number: int, request: RolloutRequest, parts: Sequence[Any], version: int) -> list[FinishedSample]:
    """One sample of vLLM as `FinishedSample`s. A greedy sample is repeated for all samples of its request.

    number: of the request in the call. version: of the weights.
    """
    index, finish_reason = parts[-1].index, parts[-1].finish_reason
    if finish_reason not in ("stop", "length"):
        raise RuntimeError(f"vLLM ended a sample of prompt {request.prompt_id}: {finish_reason}")
    token_ids = tuple(token for part in parts for token in part.token_ids)
    steps = (step for part in parts for step in part.logprobs)
    completion = Completion(
        token_ids=token_ids,
        logprobs=tuple(step[token].logprob for step, token in zip(steps, token_ids, strict=True)),
        finish_reason=finish_reason,
        version=version,
    )
    copies = request.num_samples // num_drawn(request)
    return [FinishedSample(number, index + k, completion) for k in range(copies)]
