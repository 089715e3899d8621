"""The order in which prompts are trained on: a pure function of (seed, position)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

from mars.errors import ConfigError
from mars.types import Prompt


class PromptStream:
    """Batches of prompts without end, epoch after epoch.

    Every prompt comes once in each epoch, and no prompt comes twice in one batch: a batch that crosses an epoch's end
    takes its rest from prompts that are not in it yet. Batch i holds the positions i * prompts_per_step onwards; it
    depends on (seed, i) alone, so a run resumes by asking for the next number.

    Raises ConfigError if there are fewer prompts than prompts_per_step.
    """

    def __init__(self, prompts: Sequence[Prompt], prompts_per_step: int, seed: int, shuffle: bool) -> None:
        if len(prompts) < prompts_per_step:
            raise ConfigError(
                f"data.prompts_per_step: a step cannot hold the same prompt twice; got {prompts_per_step} "
                f"with {len(prompts)} prompts in the data; set it to {len(prompts)} or less, or add data"
            )
        self._prompts = tuple(prompts)
        self.prompts_per_step = prompts_per_step
        self._seed = seed
        self._shuffle = shuffle
        self._order = lru_cache(maxsize=4)(self._compute_order)

    def __len__(self) -> int:
        """Prompts in one epoch."""
        return len(self._prompts)

    def batch(self, step: int) -> tuple[Prompt, ...]:
        """The prompts of batch `step` (0 is the first), all different."""
        if step < 0:
            raise ValueError(f"step must be 0 or more; got {step}")
        first = step * self.prompts_per_step
        return tuple(self._prompts[self._index(position)] for position in range(first, first + self.prompts_per_step))

    def _index(self, position: int) -> int:
        epoch, offset = divmod(position, len(self._prompts))
        return self._order(epoch)[offset] if self._shuffle else offset

    def _compute_order(self, epoch: int) -> tuple[int, ...]:
        """The permutation of one epoch.

        Where a batch crosses into the epoch, the start of the permutation depends on the end of the one before. Every
        `cycle` epochs a batch ends exactly at an epoch's end, so the computation starts there and nothing is stored.
        """
        size, batch = len(self._prompts), self.prompts_per_step
        cycle = batch // math.gcd(size, batch)
        order: tuple[int, ...] = ()
        for number in range(epoch - epoch % cycle, epoch + 1):
            carried = number * size % batch
            shown = set(order[size - carried :]) if carried else set()
            order = _avoid_at_start(self._permutation(number), shown, batch - carried if carried else 0)
        return order

    def _permutation(self, epoch: int) -> list[int]:
        """Sorted by hash: the same on every machine and with every library version."""
        prefix = f"{self._seed}:{epoch}:"
        return sorted(
            range(len(self._prompts)), key=lambda i: blake2b(f"{prefix}{i}".encode(), digest_size=16).digest()
        )


def _avoid_at_start(permutation: list[int], shown: set[int], length: int) -> tuple[int, ...]:
    """The permutation with the first `length` members that are not in `shown` moved to the front.

    Example: ([2, 0, 1, 3], {2}, 2) -> (0, 1, 2, 3).
    """
    front = [i for i in permutation if i not in shown][:length]
    taken = set(front)
    return (*front, *(i for i in permutation if i not in taken))
