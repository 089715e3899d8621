"""Uses of a round's anchors besides pooling their rewards: as guests (`anchor.guide`), or shuffled among prompts
(`anchor.shuffle`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mars.algorithms.guided_groups import GuestFilter, guide_metrics, with_guests
from mars.algorithms.shuffled_anchors import with_shuffled_anchors
from mars.types import PromptRollouts


@dataclass(frozen=True)
class AnchorCounts:
    """`Guided.refused` and `Shuffled.unshuffled` of one round, or their sums over the rounds of a step."""

    refused: int = 0
    unshuffled: int = 0

    def __add__(self, other: AnchorCounts) -> AnchorCounts:
        return AnchorCounts(self.refused + other.refused, self.unshuffled + other.unshuffled)


@dataclass(frozen=True)
class AnchorUse:
    """guide: which anchor responses may be guests; None: none may. shuffle: `anchor.shuffle`."""

    guide: GuestFilter | None
    shuffle: Literal["off", "reward", "both"]

    @property
    def guided(self) -> bool:
        return self.guide is not None

    def applied(
        self, rollouts: list[PromptRollouts], run_seed: int, step: int, round: int
    ) -> tuple[list[PromptRollouts], AnchorCounts]:
        """If `shuffle` is on, shuffle the anchors of a round. Then, if `guided`, choose its guests.

        rollouts: of the round. If `guided`, they include the anchors that may become guests (`with_candidates`).
        """
        refused, unshuffled = 0, 0
        if self.shuffle != "off":
            shuffled = with_shuffled_anchors(rollouts, self.shuffle, self.guided, run_seed, step, round)
            rollouts, unshuffled = shuffled.rollouts, shuffled.unshuffled
        if self.guide is not None:
            guided = with_guests(rollouts, self.guide)
            rollouts, refused = guided.rollouts, guided.refused
        return rollouts, AnchorCounts(refused, unshuffled)

    def metrics(self, rollouts: Sequence[PromptRollouts], counts: AnchorCounts) -> dict[str, float]:
        """Metrics of the prompts that were sampled in a step; {} with neither guided groups nor shuffling."""
        metrics = {} if self.shuffle == "off" else {"mars/anchors_unshuffled": float(counts.unshuffled)}
        if not self.guided:
            return metrics
        return metrics | guide_metrics(rollouts, counts.refused, own=self.shuffle != "both")
