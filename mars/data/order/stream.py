"""The order of the training prompts."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from mars.errors import ConfigError
from mars.types import Prompt, PromptRollouts


def refuse_repeats(num_prompts: int, prompts_per_step: int) -> None:
    """Raises ConfigError if there are fewer prompts than prompts_per_step."""
    if num_prompts < prompts_per_step:
        raise ConfigError(
            f"data.prompts_per_step: a step cannot hold the same prompt twice; got {prompts_per_step} "
            f"with {num_prompts} prompts in the data; set it to {num_prompts} or less, or add data"
        )


def other_sampler(saved: str, given: str) -> ConfigError:
    """The error for a checkpoint with the state of another sampler than the run's. given: the run's."""
    return ConfigError(
        f"recipe.sampler: the checkpoint has the state of {saved}; got {given}; "
        "resume with the sampler that the run was started with"
    )


class PromptStream:
    """An endless sequence of batches, one epoch after the other.

    Each epoch has every prompt once, and no batch has a prompt twice. A batch that crosses the end of an epoch is
    filled up with prompts of the next epoch that it does not have yet. Batch i depends on (seed, i) alone, so nothing
    has to be stored to resume a run.

    Raises ConfigError if there are fewer prompts than prompts_per_step.
    """

    def __init__(self, prompts: Sequence[Prompt], prompts_per_step: int, seed: int, shuffle: bool) -> None:
        refuse_repeats(len(prompts), prompts_per_step)
        self._prompts = tuple(prompts)
        self.prompts_per_step = prompts_per_step
        self._seed = seed
        self._shuffle = shuffle
        self._order = lru_cache(maxsize=4)(self._compute_order)

    def __len__(self) -> int:
        """Prompts in one epoch."""
        return len(self._prompts)

    @property
    def num_prompts(self) -> int:
        return len(self._prompts)

    def batch(self, step: int) -> tuple[Prompt, ...]:
        """The prompts of batch `step` (0 is the first)."""
        if step < 0:
            raise ValueError(f"step must be 0 or more; got {step}")
        first = step * self.prompts_per_step
        return tuple(self._prompts[self._index(position)] for position in range(first, first + self.prompts_per_step))

    def probes(self, step: int, round: int) -> tuple[Prompt, ...]:
        """No prompts. This and the public methods below are for samplers that learn from rollouts (docs/extend.md)."""
        return ()

    def observe(
        self, rollouts: Sequence[PromptRollouts], step: int, left_out: Collection[str] = ()
    ) -> dict[str, float]:
        return {}

    def state(self, round: int) -> dict[str, Any]:
        return {}

    def read_added(self, snapshots: Iterable[str]) -> None:
        pass

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores nothing, because the order needs no state. Raises ConfigError if there is one: it is a sampler's."""
        if state:
            raise other_sampler(state["name"], "null")

    def _index(self, position: int) -> int:
        epoch, offset = divmod(position, len(self._prompts))
        return self._order(epoch)[offset] if self._shuffle else offset

    def _compute_order(self, epoch: int) -> tuple[int, ...]:
        """The order of one epoch, as indices of the prompts.

        If a batch crosses into an epoch, the epoch's first prompts depend on the order of the previous epoch. Every
        `cycle` epochs, an epoch starts together with a batch and depends on no other epoch. The computation starts at
        the last such epoch.
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
        """A random order by hash, which is the same on every machine and with every library version."""
        prefix = f"{self._seed}:{epoch}:"
        return sorted(
            range(len(self._prompts)), key=lambda i: blake2b(f"{prefix}{i}".encode(), digest_size=16).digest()
        )


def _avoid_at_start(permutation: list[int], shown: set[int], length: int) -> tuple[int, ...]:
    """Move the first `length` indices that are not in `shown` to the front.

    Example: ([2, 0, 1, 3], {2}, 2) -> (0, 1, 2, 3).
    """
    front = [i for i in permutation if i not in shown][:length]
    taken = set(front)
    return (*front, *(i for i in permutation if i not in taken))
