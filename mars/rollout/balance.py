"""Divide the requests of a call over several engines, so that all engines end at about the same time."""

from __future__ import annotations

from collections.abc import Container, Sequence
from heapq import heapreplace

from mars.answers.record import PromptLength
from mars.types import RolloutRequest

EXPECTED_SHARE = 0.5
"""Expected length of a response as a share of its max_response_tokens. A fixed number, so that the division follows
from the call alone: a resumed run divides as an uninterrupted run does."""


class Balancer:
    """Gives each engine about the same number of expected tokens.

    The responses do not depend on the division: each request has its own seed.
    """

    def __init__(self, prompt_length: PromptLength, num_engines: int) -> None:
        self._prompt_length, self._num_engines = prompt_length, num_engines

    def split(self, requests: Sequence[RolloutRequest], without: Container[int] = ()) -> list[list[int]]:
        """Indices of the requests of each engine. without: engines that get none."""
        engines = [engine for engine in range(self._num_engines) if engine not in without]
        shares: list[list[int]] = [[] for _ in range(self._num_engines)]
        parts = split_by_tokens(requests, list(map(self._tokens, requests)), len(engines)) if engines else []
        for engine, part in zip(engines, parts, strict=True):
            shares[engine] = part
        return shares

    def _tokens(self, request: RolloutRequest) -> float:
        response = EXPECTED_SHARE * request.sampling.max_response_tokens
        return self._prompt_length(request) + request.num_samples * response


def split_by_tokens(requests: Sequence[RolloutRequest], tokens: Sequence[float], num_engines: int) -> list[list[int]]:
    """Indices of the requests of each engine, in order. tokens: of each request.

    All views of a prompt go to one engine, so that its encoder and prefix caches serve them all. The prompts are taken
    in order of size, the largest first. Each goes to the engine with the fewest tokens so far. The fullest engine then
    has at most 4/3 - 1/(3 num_engines) times the tokens that it has in the best division (Graham 1969, "longest
    processing time first").
    Example: prompts of 5, 4, 3, 3 and 3 tokens on two engines -> loads of 8 and 10, where 9 and 9 are the best.
    """
    prompts: dict[str, list[int]] = {}
    for i, request in enumerate(requests):
        prompts.setdefault(request.prompt_id, []).append(i)
    sizes = {prompt: sum(tokens[i] for i in indices) for prompt, indices in prompts.items()}
    engine_of: dict[str, int] = {}
    loads = [(0, engine) for engine in range(num_engines)]  # a heap
    for prompt in sorted(prompts, key=lambda prompt: (-sizes[prompt], prompts[prompt][0])):
        load, engine = loads[0]
        engine_of[prompt] = engine
        heapreplace(loads, (load + sizes[prompt], engine))
    shares: list[list[int]] = [[] for _ in range(num_engines)]
    for i, request in enumerate(requests):
        shares[engine_of[request.prompt_id]].append(i)
    return shares
