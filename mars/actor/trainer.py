"""Interfaces of trainers: `PolicyTrainer` trains by reinforcement learning, `SupervisedTrainer` for the cold start."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from mars.algorithms.scoring import ScoringSpec, Span
from mars.train_types import TrainBatch
from mars.types import WeightUpdate

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rendezvous:
    """How the ranks find each other. init_method: torch's, such as "tcp://host:port"; None for a single rank."""

    rank: int
    world_size: int
    init_method: str | None
    timeout_s: float


@dataclass(frozen=True)
class SkippedUpdate:
    """An update that changed no weight, because its loss or its gradient was not finite.

    update: its number in the batch, from 0. grad_norm: NaN if the loss was not finite.
    old_logprobs: (index of the prompt, index of the response) -> old log-probs, of each response with a weight above 0.
    """

    update: int
    loss: float
    grad_norm: float
    old_logprobs: Mapping[tuple[int, int], tuple[float, ...]]


SkippedReport = Callable[[TrainBatch, Sequence[SkippedUpdate], int], None]
"""Called with a batch, those of its updates that were skipped, and the step."""


def warn_of_skipped(batch: TrainBatch, skipped: Sequence[SkippedUpdate], step: int) -> None:
    """A `SkippedReport` that only logs."""
    for one in skipped:
        logger.warning("step %d: update skipped: loss %s, gradient norm %s", step, one.loss, one.grad_norm)


@dataclass(frozen=True)
class UpdateStats:
    """What one `PolicyTrainer.update` did.

    metrics: reduced over all ranks. old_logprob_seconds: for old log-probs and a token rule's passes without gradient.
    unreadable: prompt id -> reason, for prompts that were not trained on because an image cannot be read any more.
    version: of the weights with which the update began, as `WeightUpdate.version`.
    """

    metrics: Mapping[str, float]
    old_logprob_seconds: float
    unreadable: Mapping[str, str] = field(default_factory=dict)
    skipped: tuple[SkippedUpdate, ...] = ()
    version: int = 0


@dataclass(frozen=True)
class ResponseScores:
    """The numbers that a `ScoringSpec` asks for: for each prompt of the batch, a tuple with one number per response.

    With value "mean", a response gets NaN if none of its tokens count (`spans` of `score_responses`).
    unreadable: prompt id -> reason, for prompts with an image that cannot be read any more. Their values are NaN.
    """

    values: Sequence[tuple[float, ...]]
    unreadable: Mapping[str, str] = field(default_factory=dict)

    def readable(self, batch: TrainBatch) -> list[tuple[float, ...]]:
        """The values of the prompts that could be read. batch: the scored batch."""
        pairs = zip(batch.prompts, self.values, strict=True)
        return [values for prompt, values in pairs if prompt.prompt_id not in self.unreadable]


class CheckpointedTrainer(Protocol):
    """Owns the policy's weights, and writes and loads its own state."""

    def save(self, path: str) -> None:
        """Write the policy as a Hugging Face folder with its processor."""
        ...

    def start_checkpoint(self, folder: str) -> None:
        """Copy weights, optimizer and random state to CPU memory and write them to `folder` in the background.

        Every rank reports in `folder` when its files are on the disk, or if they could not be written
        (shard_report.py). All ranks must have reported the previous checkpoint before.
        """
        ...

    def load_checkpoint(self, folder: str) -> None:
        """Read the state that `start_checkpoint` wrote. It may have been written by another number of ranks.

        Raises CheckpointError for the state of another model.
        """
        ...

    def close(self) -> None:
        """End the trainer's processes and free its memory."""
        ...


class SupervisedTrainer(CheckpointedTrainer, Protocol):
    """Trains the policy to give the responses of a batch, for the cold start. Advantages are not read."""

    def update(self, batch: TrainBatch) -> Mapping[str, float]:
        """One optimizer step on the mean cross-entropy of all response tokens of the batch. The batch has one update.

        Returns metrics, which are the same for any number of ranks up to rounding. Raises NumericalError for a
        gradient that is not finite, and DataError for images that cannot be read any more. In both cases no weight has
        changed.
        """
        ...

    def losses(self, batch: TrainBatch) -> Sequence[float]:
        """The cross-entropy of each prompt's response in nats, summed over its tokens.

        Raises DataError for images that cannot be read any more.
        """
        ...


class PolicyTrainer(CheckpointedTrainer, Protocol):
    """Trains the policy by reinforcement learning."""

    def update(self, batch: TrainBatch) -> UpdateStats:
        """Make one optimizer step for each of the batch's updates, in order. Computes old and reference log-probs too.

        A prompt with an image that cannot be read any more has weight 0 on all ranks. Metrics are those of
        docs/metrics.md, reduced over all ranks. Raises NumericalError after too many updates in a row whose loss or
        gradient is not finite.
        """
        ...

    def score_responses(
        self, batch: TrainBatch, spec: ScoringSpec, spans: Sequence[Sequence[Span]] | None = None
    ) -> ResponseScores:
        """One number for each response, such as its KL to the reference model (mars/algorithms/scoring.py).

        Ignores advantages and the weights of responses. spans: for each prompt, for each of its responses, the tokens
        that count; None: all. The batch's updates must hold every response of every prompt exactly once. Raises
        ConfigError if `spec` needs a reference model and there is none.
        """
        ...

    def publish_weights(self) -> WeightUpdate:
        """The current weights. Each call raises the version by 1."""
        ...

    def offload(self) -> None:
        """Move weights, optimizer states and reference model from the device to host memory.

        `publish_weights` and `start_checkpoint` read them there. `update`, `score_responses`, `save` and
        `load_checkpoint` raise RuntimeError until `onload`. Does nothing if the trainer is offloaded.
        """
        ...

    def onload(self) -> None:
        """Move everything back to the device. Does nothing if the trainer is not offloaded."""
        ...


class RankTrainer(PolicyTrainer, Protocol):
    """One rank's trainer."""

    def send_weights(self, version: int) -> WeightUpdate:
        """Send the current weights under this version number. Unchanged weights may be sent again under the same
        number.

        Raises ValueError if the number is lower than the last one, or if the weights have changed since it was used.
        """
        ...


@runtime_checkable
class RestartableTrainer(CheckpointedTrainer, Protocol):
    """A trainer that can go on after its processes were lost (WorkerLost)."""

    def restart(self) -> None:
        """End its remaining processes and build it again with the weights of model.path.

        Raises WorkerError if that fails.
        """
        ...

    def check_alive(self) -> None:
        """Raises WorkerLost if one of its processes has died. Call it while the trainer has nothing to do."""
        ...
