"""What one optimizer step minimises, and the sums its metrics come from. No model, no distribution of work."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
import torch.distributed as dist
from torch import Tensor

from mars.algorithms.advantages import AdvantageSettings
from mars.algorithms.kl import KlEstimator, kl_estimate
from mars.algorithms.masked import TokenLayout
from mars.algorithms.mismatch import logprob_difference
from mars.algorithms.policy_loss import PolicyLossSettings, policy_loss
from mars.algorithms.pooled_rewards import PooledRewards
from mars.algorithms.reduction import Reduction, loss_denominator, reduce_loss
from mars.types import MicroBatch, TrainBatch, TrainResponse

Row = tuple[int, int]


@dataclass(frozen=True)
class ObjectiveSettings:
    """kl_coefficient: weight of the KL to the reference model, 0 for none.

    truncation_nats: by how much the engine's log-probs may lie above the trainer's because it sampled from a part of
    the distribution only: -ln(top_p), infinity with top_k.
    """

    advantage: AdvantageSettings
    policy_loss: PolicyLossSettings
    reduction: Reduction
    reduction_tokens: int | None
    kl_coefficient: float
    kl_estimator: KlEstimator
    truncation_nats: float


@dataclass(frozen=True)
class RowTarget:
    """One row of a micro-batch: its response, advantage, and weight (0 for fillers and undefined advantages)."""

    response: TrainResponse
    advantage: float
    weight: float


def row_advantages(batch: TrainBatch, settings: AdvantageSettings) -> dict[Row, tuple[float, float]]:
    """(advantage, weight) of each row (prompt, response), over all prompts of the batch; the same on every rank."""
    advantages = PooledRewards.of_batch(batch.prompts).advantages(settings)
    # `of_batch` keeps the order of the prompts and of each one's responses.
    rows = [(p, k) for p, prompt in enumerate(batch.prompts) for k in range(len(prompt.responses))]
    return dict(zip(rows, zip(advantages.values.tolist(), advantages.weights.tolist(), strict=True), strict=True))


def row_targets(batch: TrainBatch, micro: MicroBatch, advantages: Mapping[Row, tuple[float, float]]) -> list[RowTarget]:
    """What the rows of one forward are trained towards; fillers weigh nothing."""
    first_filler = len(micro.rows) - micro.num_fillers
    return [
        RowTarget(batch.prompts[p].responses[k], advantages[p, k][0], advantages[p, k][1] if i < first_filler else 0.0)
        for i, (p, k) in enumerate(micro.rows)
    ]


@dataclass(frozen=True)
class UpdateSums:
    """Sums over tokens (float64 scalars), additive over micro-batches and ranks; `difference_max` by maximum."""

    pg_loss: Tensor
    kl_loss: Tensor
    entropy: Tensor
    num_tokens: Tensor
    num_on_policy: Tensor
    num_clipped: Tensor
    num_dual_clipped: Tensor
    ppo_kl: Tensor
    difference: Tensor
    num_compared: Tensor
    difference_max: Tensor

    def merge(self, other: UpdateSums) -> UpdateSums:
        merged = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return UpdateSums(**merged | {"difference_max": torch.maximum(self.difference_max, other.difference_max)})

    def all_reduce(self) -> Mapping[str, float]:
        """Over all ranks; by name."""
        names = [f.name for f in fields(self)]
        added = torch.stack([getattr(self, name).double() for name in names])
        largest = self.difference_max.double().clone()
        dist.all_reduce(added)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return dict(zip(names, added.tolist(), strict=True)) | {"difference_max": largest.item()}


class Objective:
    """The clipped loss plus the KL term, over the rows of one micro-batch."""

    def __init__(self, settings: ObjectiveSettings) -> None:
        self._settings = settings

    def zeros(self, device: torch.device) -> UpdateSums:
        zero = torch.zeros((), dtype=torch.float64, device=device)
        return UpdateSums(**{f.name: zero for f in fields(UpdateSums)})

    def denominator(self, num_tokens: int, num_sequences: int) -> float:
        return loss_denominator(self._settings.reduction, num_tokens, num_sequences, self._settings.reduction_tokens)

    def loss(
        self,
        logprobs: Tensor,
        entropy: Tensor,
        old_logprobs: Tensor | None,
        ref_logprobs: Tensor | None,
        lengths: Tensor,
        rows: list[RowTarget],
        denominator: float,
        compare_rollout: bool,
    ) -> tuple[Tensor, UpdateSums]:
        """This micro-batch's part of the loss (scalar, with gradient) and its sums.

        logprobs, entropy, old_logprobs, ref_logprobs: float [T], the rows' response tokens one after the other.
        old_logprobs None: the update is the first after sampling, so they are `logprobs` themselves (ratio 1).
        compare_rollout: whether the weights are still those that the engine sampled with.
        """
        settings = self._settings
        packed = TokenLayout.packed(lengths)
        like = {"dtype": logprobs.dtype, "device": logprobs.device}
        weights = packed.spread(torch.tensor([row.weight for row in rows], **like))
        off_policy = packed.spread(torch.tensor([row.response.off_policy for row in rows], device=logprobs.device))
        layout = TokenLayout(weights > 0, packed.sequence_index, packed.num_sequences)
        advantages = packed.spread(torch.tensor([row.advantage for row in rows], **like))
        old = logprobs.detach() if old_logprobs is None else old_logprobs
        result = policy_loss(logprobs, old, advantages, layout, settings.policy_loss, off_policy)
        pg_loss = reduce_loss(result.token_losses, layout, settings.reduction, denominator)
        kl_loss = torch.zeros_like(pg_loss)
        if ref_logprobs is not None:
            on_policy = TokenLayout(layout.mask & ~off_policy, packed.sequence_index, packed.num_sequences)
            kl = kl_estimate(on_policy.keep(logprobs), on_policy.keep(ref_logprobs), settings.kl_estimator)
            kl_loss = reduce_loss(kl, on_policy, settings.reduction, denominator)
        rollout = torch.tensor([value for row in rows for value in row.response.rollout_logprobs], **like)
        # Where the engine sampled from a nucleus, its log-probs are higher by up to -ln(top_p): no mismatch.
        rollout = rollout - (rollout - old).clamp(0.0, settings.truncation_nats)
        compared = layout.mask & ~off_policy & compare_rollout
        difference = logprob_difference(old, rollout, TokenLayout(compared, packed.sequence_index, len(rows)))
        sums = UpdateSums(
            pg_loss=pg_loss.detach(),
            kl_loss=kl_loss.detach(),
            entropy=layout.keep(entropy).sum(),
            num_tokens=layout.mask.sum(),
            num_on_policy=result.num_tokens,
            num_clipped=result.num_clipped,
            num_dual_clipped=result.num_dual_clipped,
            ppo_kl=result.kl_sum,
            difference=difference.sum,
            num_compared=difference.num_tokens,
            difference_max=difference.max,
        )
        return pg_loss + settings.kl_coefficient * kl_loss, sums

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """From sums over all micro-batches and ranks of one update."""
        tokens = max(sums["num_tokens"], 1.0)
        on_policy = max(sums["num_on_policy"], 1.0)
        metrics = {
            "actor/pg_loss": sums["pg_loss"],
            "actor/kl_loss": sums["kl_loss"],
            "actor/entropy": sums["entropy"] / tokens,
            "actor/pg_clipfrac": sums["num_clipped"] / on_policy,
            "actor/pg_clipfrac_lower": sums["num_dual_clipped"] / on_policy,
            "actor/ppo_kl": sums["ppo_kl"] / on_policy,
        }
        if sums["num_compared"]:
            metrics["rollout/logprob_diff_max"] = sums["difference_max"]
            metrics["rollout/logprob_diff_mean"] = sums["difference"] / sums["num_compared"]
        return metrics


def truncation_nats(top_p: float, top_k: int) -> float:
    """How far sampling from a part of the distribution can raise a token's log-prob. Example: top_p 0.9 -> 0.105."""
    return math.inf if top_k > 0 else -math.log(top_p)
