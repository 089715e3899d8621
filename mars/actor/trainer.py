"""The interface of everything that trains the policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from mars.types import TrainBatch, UpdateStats, WeightUpdate


@dataclass(frozen=True)
class Rendezvous:
    """How the ranks find each other. init_method: torch's, e.g. "tcp://host:port"; None for a single rank."""

    rank: int
    world_size: int
    init_method: str | None
    timeout_s: float


class PolicyTrainer(Protocol):
    """Owns the policy's weights."""

    def update(self, batch: TrainBatch) -> UpdateStats:
        """Take the batch's optimizer steps, in the order of its updates; old and reference log-probs included.

        The batch's advantages and weights are used as they are. Metrics are those of docs/metrics.md, reduced over
        all ranks. Raises NumericalError after too many updates in a row whose loss or gradient is not finite.
        """
        ...

    def kl_to_reference(self, batch: TrainBatch) -> list[tuple[float, ...]]:
        """KL(policy || reference) of each response, in nats, summed over its tokens: one tuple for each prompt.

        With the current weights and the objective's estimator; nothing is trained, advantages and weights are not
        read. The batch's plans hold every row once. Raises ConfigError if there is no reference model.
        """
        ...

    def publish_weights(self) -> WeightUpdate:
        """The current weights, one version after the last published."""
        ...

    def save(self, path: str) -> None:
        """Write the policy as a Hugging Face folder with its processor."""
        ...

    def close(self) -> None:
        """End every process and free all memory this trainer holds."""
        ...
