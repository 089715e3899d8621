"""Anchors of `anchor.kind=forced_source`: responses to the multi view that begin with given tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from mars.errors import ConfigError, DataError
from mars.rollout.engine import FinishedSample, RolloutEngine, UnreadableRequest, ended
from mars.types import Prompt, RolloutRequest, Sampling

_KEY = "anchor.forced_start"
PLACE = "{source}"
"""What stands for the name of the source in `anchor.forced_start`."""


class StartOfSource:
    """Source -> the first tokens of the responses to its anchor view.

    text: `anchor.forced_start`. encode: text -> ids, the last of which ends a response.
    max_response_tokens: at least one token must be left to sample.
    """

    def __init__(self, text: str, encode: Callable[[str], tuple[int, ...]], max_response_tokens: int) -> None:
        self._text, self._encode, self._longest = text, encode, max_response_tokens
        self._known: dict[str, tuple[int, ...]] = {}

    def __call__(self, source: str) -> tuple[int, ...]:
        """Raises ConfigError for a text that would become a special token or is too long. Also raises it for a text
        that lacks the beginning that the chat template gives to every response."""
        if source not in self._known:
            text = self._text.replace(PLACE, source)
            try:
                ids = self._encode(text)[:-1]
            except DataError as error:
                raise ConfigError(f"{_KEY}: {error}; got {text!r}; give another start") from error
            _check_length(len(ids), self._longest)
            self._known[source] = ids
        return self._known[source]


def start_of_sources(
    text: str | None, encode: Callable[[str], tuple[int, ...]], sampling: Sampling, prompts: Iterable[Prompt]
) -> StartOfSource | None:
    """None if `text` is None. Encodes the start for the sources of all prompts, so that errors come before the run."""
    if text is None:
        return None
    start = StartOfSource(text, encode, sampling.max_response_tokens)
    for name in dict.fromkeys(source.name for prompt in prompts for source in prompt.sources):
        start(name)
    return start


class ForcedStarts:
    """A `RolloutEngine` that lets `engine` continue `RolloutRequest.response_start`, and yields whole responses. The
    given tokens have log-prob 0, and count in `Sampling.max_response_tokens`."""

    def __init__(self, engine: RolloutEngine) -> None:
        self._engine = engine

    def generate(self, requests: Iterable[RolloutRequest | None]) -> Iterator[list[FinishedSample | UnreadableRequest]]:
        taken: list[RolloutRequest] = []

        def asked() -> Iterator[RolloutRequest | None]:
            for request in requests:
                if request is not None:
                    taken.append(request)
                    request = _behind_start(request)
                yield request

        with ended(self._engine.generate(asked())) as call:
            for finished in call:
                yield [
                    each if isinstance(each, UnreadableRequest) else _whole(each, taken[each.request].response_start)
                    for each in finished
                ]

    def prefetch(self, requests: Sequence[RolloutRequest]) -> None:
        self._engine.prefetch([_behind_start(request) for request in requests])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def _behind_start(request: RolloutRequest) -> RolloutRequest:
    start, sampling = request.response_start, request.sampling
    if not start:
        return request
    _check_length(len(start), sampling.max_response_tokens)  # which `ramps` may have shortened
    left = replace(sampling, max_response_tokens=sampling.max_response_tokens - len(start))
    ids = (*request.prompt_token_ids, *start)
    return replace(request, prompt_token_ids=ids, sampling=left, response_start=())


def _whole(sample: FinishedSample, start: tuple[int, ...]) -> FinishedSample:
    rest = sample.completion
    ids, logprobs = (*start, *rest.token_ids), (*(0.0,) * len(start), *rest.logprobs)
    return replace(sample, completion=replace(rest, token_ids=ids, logprobs=logprobs))


def _check_length(length: int, longest: int) -> None:
    if not 0 < length < longest:
        raise ConfigError(
            f"{_KEY}: must have 1 to {longest - 1} tokens, so that rollout.max_response_tokens leaves one to sample; "
            f"got {length}; write another text"
        )
