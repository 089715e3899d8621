"""Mix several data sets, each with its share of every step. Batch i is a pure function of (seed, i)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from hashlib import blake2b
from itertools import accumulate

from mars.data.order.stream import PromptStream
from mars.errors import ConfigError
from mars.types import Prompt

_MILLION = 1_000_000


@dataclass(frozen=True)
class ChangingWeights:
    """at: number of a batch -> the weights of that batch. lowest, highest: bounds of each weight over all batches."""

    at: Callable[[int], Sequence[float]]
    lowest: Sequence[float]
    highest: Sequence[float]


class PromptMixture(PromptStream):
    """An endless sequence of batches in which set i has the share weights[i] / sum(weights).

    Shares are rounded to whole prompts so that the running total never drifts. Each set has its own epochs. No prompt
    comes twice in a batch. Within a batch each set's prompts are spread evenly, so that the updates of the step get
    similar shares of each set.
    One epoch of the mixture is as many prompts as all sets have together (`len`).

    If weights change from batch to batch, each weights[i] / sum(weights) is first rounded to a millionth.

    Example: weights [3, 1] and 6 prompts per step give 5 + 1, 4 + 2, 5 + 1, 4 + 2, ...: 4.5 + 1.5 on average.

    Raises ConfigError if a set has fewer prompts than its largest share of a step.
    """

    def __init__(
        self,
        sets: Sequence[Sequence[Prompt]],
        weights: Sequence[float] | ChangingWeights,
        prompts_per_step: int,
        seed: int,
        shuffle: bool,
    ) -> None:
        super().__init__([prompt for prompts in sets for prompt in prompts], prompts_per_step, seed, shuffle)
        changing = isinstance(weights, ChangingWeights)
        self._shares = _changing_shares(weights) if changing else _constant_shares(weights)
        # Exact integers: of each place in a batch, set i is due shares.of(batch)[i] / unit. It is still owed
        # owed[i] / unit places.
        self._unit = self._shares.unit
        self._owed = [0] * len(sets)
        self._decks = [_Deck(prompts, f"{seed}:{number}", shuffle) for number, prompts in enumerate(sets)]
        self._batches: list[tuple[Prompt, ...]] = []
        for number, (prompts, share) in enumerate(zip(sets, self._shares.largest, strict=True)):
            places = prompts_per_step * share
            # Rounded up. With three sets or more, or with weights that change, rounding can give a set one place more.
            most = -(-places // self._unit) + (changing or (places % self._unit > 0 and len(sets) > 2))
            if len(prompts) < most:
                weight = self._shares.weights[number]
                raise ConfigError(
                    f"data.weights: a step cannot hold the same prompt twice; got {weight} for a file of "
                    f"{len(prompts)} prompts, of which up to {most} would be in a step; lower this weight"
                )

    def batch(self, step: int) -> tuple[Prompt, ...]:
        """The prompts of batch `step` (0 is the first). Computes and keeps all batches before it."""
        if step < 0:
            raise ValueError(f"step must be 0 or more; got {step}")
        while len(self._batches) <= step:
            self._batches.append(self._next(len(self._batches)))
        return self._batches[step]

    def _next(self, batch: int) -> tuple[Prompt, ...]:
        places = [0] * len(self._decks)
        for i, share in enumerate(self._shares.of(batch)):
            self._owed[i] += share * self.prompts_per_step
        for _ in range(self.prompts_per_step):
            most_owed = max(range(len(places)), key=lambda i: (self._owed[i], -i))
            self._owed[most_owed] -= self._unit
            places[most_owed] += 1
        # Prompt k of n of a set goes to the relative position (2k + 1) / 2n of the batch.
        drawn = [
            (Fraction(2 * place + 1, 2 * count), i, prompt)
            for i, count in enumerate(places)
            for place, prompt in enumerate(self._decks[i].take(count))
        ]
        return tuple(prompt for _, _, prompt in sorted(drawn, key=lambda entry: entry[:2]))


@dataclass(frozen=True)
class _Shares:
    """Shares as whole numbers of 1 / `unit`. of: number of a batch -> each set's share of it.

    largest: an upper bound of each set's shares over all batches. weights: each set's highest weight.
    """

    unit: int
    of: Callable[[int], Sequence[int]]
    largest: Sequence[int]
    weights: Sequence[float]


def _constant_shares(weights: Sequence[float]) -> _Shares:
    exact = [Fraction(str(weight)) for weight in weights]
    unit = math.lcm(*((weight / sum(exact)).denominator for weight in exact))
    shares = [int(weight / sum(exact) * unit) for weight in exact]
    return _Shares(unit, lambda batch: shares, shares, weights)


def _changing_shares(weights: ChangingWeights) -> _Shares:
    """The shares of weights that change.

    `largest`: each set's share with its own weight at its highest value, and all other weights at their lowest.
    """
    total = sum(weights.lowest)
    bounds = zip(weights.lowest, weights.highest, strict=True)
    largest = [math.ceil(_MILLION * high / (total - low + high)) for low, high in bounds]
    return _Shares(_MILLION, lambda batch: _millionths(weights.at(batch)), largest, weights.highest)


def _millionths(weights: Sequence[float]) -> list[int]:
    """The shares as integers that add up to a million.

    >>> _millionths([1, 1, 1])
    [333333, 333334, 333333]
    """
    ends = [round(_MILLION * part / sum(weights)) for part in accumulate(weights)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


class _Deck:
    """Deals the prompts of one set, one epoch after the other."""

    def __init__(self, prompts: Sequence[Prompt], seed: str, shuffle: bool) -> None:
        self._prompts, self._seed, self._shuffle = prompts, seed, shuffle
        self._epoch = -1
        self._left: list[int] = []

    def take(self, count: int) -> list[Prompt]:
        """The next `count` prompts, all different.

        If the epoch ends among them, the new epoch starts with prompts that have not been taken in this call.
        """
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
