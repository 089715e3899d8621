"""The interface of everything that trains the policy."""

from __future__ import annotations

from collections.abc import Sequence as Sequences
from dataclasses import dataclass
from typing import Protocol

from mars.types import Sequence, TrainBatch, UpdateStats, WeightUpdate


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
        """Advantages, old and reference log-probs and the optimizer steps over one batch."""
        ...

    def logprobs(self, sequences: Sequences[Sequence]) -> list[list[float]]:
        """Log-probs of the response tokens, at the sampling temperature and with blocked ids masked."""
        ...

    def kl_to_reference(self, batch: TrainBatch) -> list[tuple[float, ...]]:
        """For each prompt and response of the batch the KL to the reference model, summed over its tokens, in nats.

        With the estimator of the objective, before any update; the batch has one update plan that holds every row.
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
