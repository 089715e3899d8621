"""What samplers of recipes share: a table of all training prompts, and draws that depend only on a seed and a key."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from hashlib import blake2b

import numpy as np

from mars.data.order.stream import refuse_repeats
from mars.hooks.contract import SamplerSetup
from mars.types import Prompt

AT_RANDOM = {"data.weights": None, "data.shuffle": True}


class PromptTable:
    """All training prompts, each with a place from 0 on, so that a sampler keeps its numbers in arrays.

    A sampler that draws at random from the prompts of all data files together cannot follow `data.weights` and
    `data.shuffle=false`. So the recipe's .py file puts `AT_RANDOM` into `NEEDS`.
    Raises ConfigError for fewer prompts than a step has.
    """

    def __init__(self, setup: SamplerSetup) -> None:
        by_id = {prompt.prompt_id: prompt for prompts in setup.sets for prompt in prompts}
        refuse_repeats(len(by_id), setup.prompts_per_step)
        self.prompts = tuple(by_id.values())
        self._places = {prompt_id: place for place, prompt_id in enumerate(by_id)}

    def __len__(self) -> int:
        return len(self.prompts)

    def places(self, prompt_ids: Iterable[str]) -> list[int | None]:
        """The place of each prompt; None for a prompt that is not in the data (any more)."""
        return [self._places.get(prompt_id) for prompt_id in prompt_ids]

    def place(self, prompt: Prompt) -> int:
        return self._places[prompt.prompt_id]

    def readable(self, left_out: Collection[str]) -> np.ndarray:
        """bool [N]: True but for the prompts in `left_out`."""
        found = np.ones(len(self), dtype=bool)
        found[[place for place in self.places(left_out) if place is not None]] = False
        return found


def generator(seed: int, *key: str | int) -> np.random.Generator:
    """A random generator that depends on nothing but seed and key. Example: generator(seed, "vade", round)."""
    text = ":".join(map(str, (seed, *key)))
    number = int.from_bytes(blake2b(text.encode(), digest_size=16).digest(), "little")
    return np.random.Generator(np.random.Philox(key=number))


def draw_without_replacement(weights: np.ndarray, count: int, rng: np.random.Generator) -> list[int]:
    """`count` different places, or all if there are fewer, in the order in which they are drawn.

    The probability of each draw is in proportion to the weights (float [N], 0 or more) of the places that are left.
    Places of weight 0 come last, in random order. Each place gets a waiting time from an exponential distribution
    whose rate is its weight, and places are sorted by these times.
    """
    times = rng.standard_exponential(len(weights))
    with np.errstate(over="ignore"):  # the wait for a tiny weight may be infinite: it still comes before weight 0
        waits = np.divide(times, weights, out=np.zeros(len(weights)), where=weights > 0)
    return np.lexsort((times, waits, weights == 0))[:count].tolist()
