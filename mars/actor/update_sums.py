"""The sums behind an update's metrics.

The totals over micro-batches and ranks do not depend on how the work is split.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class UpdateSums:
    """Scalars of one update, added up over micro-batches and ranks; of `difference_max` the maximum is taken.

    loss: what is minimised. pg_loss, kl_loss: its terms without their coefficients. num_tokens, num_sequences: what is
    trained on, masked tokens left out. importance_weight: over `num_weights` tokens or responses; num_capped of these
    were cut to the cap, num_masked others are masked (`ImportanceWeights`). difference, rollout_kl: over the
    `num_compared` tokens compared with the engine.
    """

    loss: Tensor
    pg_loss: Tensor
    kl_loss: Tensor
    entropy: Tensor
    num_tokens: Tensor
    num_sequences: Tensor
    num_on_policy: Tensor
    num_clipped: Tensor
    num_dual_clipped: Tensor
    ppo_kl: Tensor
    importance_weight: Tensor
    num_weights: Tensor
    num_capped: Tensor
    num_masked: Tensor
    difference: Tensor
    rollout_kl: Tensor
    num_compared: Tensor
    difference_max: Tensor

    @classmethod
    def zeros(cls, device: torch.device) -> UpdateSums:
        zero = torch.zeros((), dtype=torch.float64, device=device)
        return cls(**{f.name: zero for f in fields(cls)})

    def merge(self, other: UpdateSums) -> UpdateSums:
        merged = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return UpdateSums(**merged | {"difference_max": torch.maximum(self.difference_max, other.difference_max)})

    def all_reduce(self) -> Mapping[str, float]:
        """The totals over all ranks in float64, by name. A collective call."""
        names = [f.name for f in fields(self)]
        added = torch.stack([getattr(self, name).double() for name in names])
        largest = self.difference_max.double().clone()
        dist.all_reduce(added)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return dict(zip(names, added.tolist(), strict=True)) | {"difference_max": largest.item()}


def scaled(totals: Mapping[str, float], factor: float) -> dict[str, float]:
    """The totals of `UpdateSums.all_reduce` with `loss` and its terms multiplied by `factor`."""
    return {name: value * factor if name in ("loss", "pg_loss", "kl_loss") else value for name, value in totals.items()}
