"""The sums behind an update's metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import torch
import torch.distributed as dist
from torch import Tensor

from mars.actor.reading import agreed_names

_OF_RULE = ("means", "named")


@dataclass(frozen=True)
class UpdateSums:
    """Scalars of one update, added up over micro-batches and ranks; of `difference_max` the maximum is taken.

    pg_loss, kl_loss: terms of `loss` without their coefficients. rule_loss: the term of a token rule.
    num_tokens, num_sequences: those that are trained on, without masked tokens.
    importance_weight: sum over `num_weights` tokens or responses. num_capped: how many of these were cut to the cap.
    num_masked: how many others are masked (`ImportanceWeights`).
    difference, rollout_kl: sums over the `num_compared` tokens that are compared with the engine.
    guest_logprob: old log-probs, summed over the `num_guest_tokens` tokens of guests of `anchor.guide`.
    means: of a token rule, name -> [sum, count]. named: for each call of the rule, the sorted names of its means; empty
        without a rule.
    """

    loss: Tensor
    pg_loss: Tensor
    kl_loss: Tensor
    rule_loss: Tensor
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
    guest_logprob: Tensor
    num_guest_tokens: Tensor
    means: Mapping[str, Tensor] = field(default_factory=dict)
    named: frozenset[tuple[str, ...]] = frozenset()

    @classmethod
    def zeros(cls, device: torch.device) -> UpdateSums:
        zero = torch.zeros((), dtype=torch.float64, device=device)
        return cls(**{f.name: zero for f in fields(cls) if f.name not in _OF_RULE})

    def scalars(self) -> dict[str, Tensor]:
        """All sums but `means`, by name."""
        return {name: value for name, value in vars(self).items() if name not in _OF_RULE}

    def merge(self, other: UpdateSums) -> UpdateSums:
        others = other.scalars()
        merged = {name: value + others[name] for name, value in self.scalars().items()}
        merged["difference_max"] = torch.maximum(self.difference_max, other.difference_max)
        return UpdateSums(**merged, means=_added(self.means, other.means), named=self.named | other.named)

    def all_reduce(self) -> dict[str, float]:
        """The totals over all ranks in float64, by name; for each mean "<name>:sum" and "<name>:count".

        A collective call. Raises ConfigError on all ranks if a rule's calls differ in the names of their means.
        """
        if self.named:
            agreed_names("recipe.tokens: means of apply", self.named)
        values = self.scalars()
        for name in sorted(self.means):
            values |= {f"{name}:sum": self.means[name][0], f"{name}:count": self.means[name][1]}
        added = torch.stack([value.double() for value in values.values()])
        largest = self.difference_max.double().clone()
        dist.all_reduce(added)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return dict(zip(values, added.tolist(), strict=True)) | {"difference_max": largest.item()}


def mean_metrics(totals: Mapping[str, float]) -> dict[str, float]:
    """The metrics recipe/<name> of a token rule, from the totals of `UpdateSums.all_reduce`; none for a count of 0.

    >>> mean_metrics({"loss": 1.0, "kl:sum": 3.0, "kl:count": 2.0, "none:sum": 0.0, "none:count": 0.0})
    {'recipe/kl': 1.5}
    """
    names = [name.removesuffix(":sum") for name in totals if name.endswith(":sum")]
    pairs = {name: (totals[f"{name}:sum"], totals[f"{name}:count"]) for name in names}
    return {f"recipe/{name}": total / count for name, (total, count) in pairs.items() if count > 0}


def _added(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The sums by name. A name that only one side has is refused later, on all ranks (`UpdateSums.all_reduce`)."""
    both = {name: one[name] + other[name] for name in one.keys() & other.keys()}
    return {**one, **other, **both}


_LOSSES = ("loss", "pg_loss", "kl_loss", "rule_loss")


def scaled(totals: Mapping[str, float], factor: float) -> dict[str, float]:
    """The totals of `UpdateSums.all_reduce` with `loss` and its terms multiplied by `factor`."""
    return {name: value * factor if name in _LOSSES else value for name, value in totals.items()}
