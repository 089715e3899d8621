"""Data of one update: what a rank's forwards and backwards use and add up, and the outcome of the update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from mars.actor.targets import row_targets
from mars.actor.trainer import SkippedUpdate
from mars.actor.update_sums import UpdateSums
from mars.train_types import MicroBatch, TrainBatch

Row = tuple[int, int]


@dataclass(frozen=True)
class UpdatePass:
    """An update's forwards and backwards on this rank.

    denominator: of its losses. old: forward -> the old log-probs of its rows.
    """

    batch: TrainBatch
    sums: UpdateSums
    denominator: float
    old: Mapping[MicroBatch, Tensor]

    def old_by_row(self) -> dict[Row, tuple[float, ...]]:
        """Old log-probs of each row of this rank that is trained on."""
        found: dict[Row, tuple[float, ...]] = {}
        for micro, logprobs in self.old.items():
            targets = row_targets(self.batch, micro)
            parts = logprobs.split([len(target.response.token_ids) for target in targets])
            rows = zip(micro.rows, targets, parts, strict=True)
            found |= {row: tuple(part.tolist()) for row, target, part in rows if target.weight > 0}
        return found


@dataclass(frozen=True)
class UpdateOutcome:
    """The outcome of one update; the same on all ranks. unreadable: index of a prompt -> why it was not trained on."""

    metrics: Mapping[str, float]
    unreadable: Mapping[int, str]
    skipped: SkippedUpdate | None


def skipped_updates(updates: Sequence[UpdateOutcome]) -> tuple[SkippedUpdate, ...]:
    return tuple(update.skipped for update in updates if update.skipped is not None)
