"""`PolicyTrainer`: the interface of everything that trains the policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

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
        """Do one optimizer step for each of the batch's updates, in order. Computes old and reference log-probs too.

        Uses the batch's advantages and weights as they are. Metrics are those of docs/metrics.md, reduced over all
        ranks. Raises NumericalError after too many updates in a row whose loss or gradient is not finite.
        """
        ...

    def kl_to_reference(self, batch: TrainBatch) -> list[tuple[float, ...]]:
        """KL(policy || reference) of each response, in nats, summed over its tokens: one tuple per prompt.

        Uses the current weights and the estimator of the objective. Trains nothing and ignores advantages and weights.
        The batch's plans must hold every row once. Raises ConfigError if there is no reference model.
        """
        ...

    def publish_weights(self) -> WeightUpdate:
        """The current weights. Each call raises the version by 1."""
        ...

    def save(self, path: str) -> None:
        """Write the policy as a Hugging Face folder with its processor."""
        ...

    def start_checkpoint(self, folder: str) -> None:
        """Copy weights, optimizer and random state to CPU memory and write them to `folder` in the background.

        Every rank reports there when its files are on the disk (shard_report.py), also if they could not be written.
        All ranks must have reported the previous checkpoint.
        """
        ...

    def load_checkpoint(self, folder: str) -> None:
        """Take over the state that `start_checkpoint` wrote, on any number of ranks.

        Raises CheckpointError if it is the state of another model.
        """
        ...

    def close(self) -> None:
        """End the trainer's processes and free its memory."""
        ...


@runtime_checkable
class RestartableTrainer(PolicyTrainer, Protocol):
    """A trainer whose processes may be lost (WorkerLost) while the run goes on."""

    def restart(self) -> None:
        """End what is left of its processes and build it again with the weights of model.path.

        Raises WorkerError if that fails.
        """
        ...

    def check_alive(self) -> None:
        """Raises WorkerLost if one of its processes has died. Call it while the trainer has nothing to do."""
        ...
