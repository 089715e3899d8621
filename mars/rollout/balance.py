"""Dividing the requests of a call over several engines, so that all end at about the same time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mars.answers.record import PromptLength
from mars.types import RolloutRequest


class Balancer:
    """Divides requests by the tokens that they are expected to take: the prompt once, for all its samples share it, and
    the responses.

    A response is expected to be as long as those of the last call were on average, and before the first call as long as
    it may be. Which engine answers changes no response: each request has its own seed.
    """

    def __init__(self, prompt_length: PromptLength, num_engines: int) -> None:
        self._prompt_length, self._num_engines = prompt_length, num_engines
        self._mean_response: float | None = None
        self._homes: Mapping[str, int] = {}

    def split(self, requests: Sequence[RolloutRequest]) -> list[list[int]]:
        """Indices of the requests of each engine. Prompts of the last `split_ahead` go where that sent them."""
        return split_by_tokens(requests, list(map(self._tokens, requests)), self._num_engines, self._homes)

    def split_ahead(self, requests: Sequence[RolloutRequest]) -> list[list[int]]:
        """As `split`, for requests whose images are read in advance: the engine that has read them should answer."""
        self._homes = {}
        shares = self.split(requests)
        self._homes = {requests[i].prompt_id: engine for engine, share in enumerate(shares) for i in share}
        return shares

    def seen(self, num_responses: int, num_tokens: int) -> None:
        """Record how many responses the call that has just ended gave, and how many tokens they have together."""
        if num_responses:
            self._mean_response = num_tokens / num_responses

    def _tokens(self, request: RolloutRequest) -> float:
        longest = request.sampling.max_response_tokens
        response = longest if self._mean_response is None else min(self._mean_response, longest)
        return self._prompt_length(request) + request.num_samples * response


def split_by_tokens(
    requests: Sequence[RolloutRequest], tokens: Sequence[float], num_engines: int, homes: Mapping[str, int]
) -> list[list[int]]:
    """Indices of the requests of each engine, in order. tokens: of each request. homes: prompt id -> its engine.

    All views of a prompt go to one engine, whose encoder and prefix caches then serve them. Prompts without a home go,
    the largest first, to the engine with the fewest tokens so far. Without homes the fullest engine then has at most
    4/3 - 1/(3 num_engines) times what the best division would give it (Graham 1969, "longest processing time first").
    Example: prompts of 5, 4, 3, 3 and 3 tokens on two engines -> loads of 8 and 10, where 9 and 9 are the best.
    """
    prompts: dict[str, list[int]] = {}
    for i, request in enumerate(requests):
        prompts.setdefault(request.prompt_id, []).append(i)
    sizes = {prompt: sum(tokens[i] for i in indices) for prompt, indices in prompts.items()}
    engine_of = {prompt: homes[prompt] for prompt in prompts if prompt in homes}
    loads = [0.0] * num_engines
    for prompt, engine in engine_of.items():
        loads[engine] += sizes[prompt]
    for prompt in sorted(prompts.keys() - engine_of.keys(), key=lambda prompt: (-sizes[prompt], prompts[prompt][0])):
        engine_of[prompt] = min(range(num_engines), key=lambda engine: loads[engine])
        loads[engine_of[prompt]] += sizes[prompt]
    shares: list[list[int]] = [[] for _ in range(num_engines)]
    for i, request in enumerate(requests):
        shares[engine_of[request.prompt_id]].append(i)
    return shares
