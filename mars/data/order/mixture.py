"""Several data sets in one run, each with its share of every step: a pure function of (seed, position)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from hashlib import blake2b

from mars.data.order.stream import PromptStream
from mars.errors import ConfigError
from mars.types import Prompt


class PromptMixture(PromptStream):
    """Batches without end in which set i has the share weights[i] / sum(weights), as evenly as whole prompts allow.

    Every set is gone through epoch after epoch of its own, at its own pace; no prompt comes twice in one batch. A
    batch's sets are spread evenly over it, so that every update has its share of each. An "epoch" of the mixture is as
    many prompts as all sets have together. Like its parent, batch i depends on (seed, i) alone.

    Example: weights [3, 1] and 6 prompts per step: 4 + 2, 5 + 1, 4 + 2, 5 + 1 … (or the reverse), 4.5 + 1.5 on average.

    Raises ConfigError if a set has fewer prompts than its share of a step.
    """

    def __init__(
        self,
        sets: Sequence[Sequence[Prompt]],
        weights: Sequence[float],
        prompts_per_step: int,
        seed: int,
        shuffle: bool,
    ) -> None:
        super().__init__([prompt for prompts in sets for prompt in prompts], prompts_per_step, seed, shuffle)
        exact = [Fraction(str(weight)) for weight in weights]
        self._unit = math.lcm(*((weight / sum(exact)).denominator for weight in exact))
        self._shares = [int(weight / sum(exact) * self._unit) for weight in exact]  # of a seat, in 1 / unit
        self._owed = [0] * len(sets)
        self._decks = [_Deck(prompts, f"{seed}:{number}", shuffle) for number, prompts in enumerate(sets)]
        self._batches: list[tuple[Prompt, ...]] = []
        for number, (prompts, share) in enumerate(zip(sets, self._shares, strict=True)):
            seats = prompts_per_step * share
            most = -(-seats // self._unit) + (seats % self._unit > 0 and len(sets) > 2)
            if len(prompts) < most:
                raise ConfigError(
                    f"data.weights: a step cannot hold the same prompt twice; got {weights[number]} for a file of "
                    f"{len(prompts)} prompts, of which up to {most} would be in a step; lower it"
                )

    def batch(self, step: int) -> tuple[Prompt, ...]:
        """The prompts of batch `step` (0 is the first), all different."""
        if step < 0:
            raise ValueError(f"step must be 0 or more; got {step}")
        while len(self._batches) <= step:
            self._batches.append(self._next())
        return self._batches[step]

    def _next(self) -> tuple[Prompt, ...]:
        seats = [0] * len(self._decks)
        for i, share in enumerate(self._shares):
            self._owed[i] += share * self.prompts_per_step
        for _ in range(self.prompts_per_step):
            neediest = max(range(len(seats)), key=lambda i: (self._owed[i], -i))
            self._owed[neediest] -= self._unit
            seats[neediest] += 1
        drawn = [
            (Fraction(2 * place + 1, 2 * count), i, prompt)
            for i, count in enumerate(seats)
            for place, prompt in enumerate(self._decks[i].take(count))
        ]
        return tuple(prompt for _, _, prompt in sorted(drawn, key=lambda entry: entry[:2]))


class _Deck:
    """A set's prompts, dealt epoch after epoch."""

    def __init__(self, prompts: Sequence[Prompt], seed: str, shuffle: bool) -> None:
        self._prompts, self._seed, self._shuffle = prompts, seed, shuffle
        self._epoch = -1
        self._left: list[int] = []

    def take(self, count: int) -> list[Prompt]:
        """The next `count` prompts, all different. Those that a new epoch may not repeat at once come later in it."""
        taken, self._left = self._left[:count], self._left[count:]
        if len(taken) < count:
            self._epoch += 1
            order = self._order()
            shown = set(taken)
            taken += [i for i in order if i not in shown][: count - len(taken)]
            new = set(taken[len(shown) :])
            self._left = [i for i in order if i not in new]
        return [self._prompts[i] for i in taken]

    def _order(self) -> list[int]:
        order = list(range(len(self._prompts)))
        if self._shuffle:
            prefix = f"{self._seed}:{self._epoch}:"
            order.sort(key=lambda i: blake2b(f"{prefix}{i}".encode(), digest_size=16).digest())
        return order
