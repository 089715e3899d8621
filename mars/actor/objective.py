"""What one optimizer step minimises, and the sums its metrics come from. No model, no distribution of work."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mars.actor.update_sums import UpdateSums
from mars.algorithms.kl import kl_estimate
from mars.algorithms.mismatch import (
    ImportanceSettings,
    engine_kl,
    importance_weights,
    logprob_difference,
)
from mars.algorithms.policy_loss import PolicyLossSettings, policy_loss
from mars.algorithms.reduction import loss_counts, loss_denominator, reduce_loss
from mars.algorithms.token_layout import TokenLayout
from mars.config.schema import AlgorithmConfig
from mars.train_types import MicroBatch, TrainBatch, TrainResponse


@dataclass(frozen=True)
class RowTarget:
    """One row of a micro-batch. weight: that of the response; 0 for a filler. carried: sampled in the previous step."""

    response: TrainResponse
    weight: float
    carried: bool


def row_targets(batch: TrainBatch, micro: MicroBatch) -> list[RowTarget]:
    """What the rows of one forward are trained on, in their order."""
    targets = []
    for i, (p, k) in enumerate(micro.rows):
        prompt = batch.prompts[p]
        is_filler = i >= len(micro.rows) - micro.num_fillers
        targets.append(RowTarget(prompt.responses[k], 0.0 if is_filler else prompt.responses[k].weight, prompt.carried))
    return targets


def compared_update(batch: TrainBatch) -> int | None:
    """The update whose tokens are compared with the engine: the first that trains on rows sampled in this step."""

    def is_fresh(p: int, k: int) -> bool:
        response = batch.prompts[p].responses[k]
        trained = response.weight > 0 and len(response.token_ids) > 0
        return trained and not batch.prompts[p].carried and not response.off_policy

    return next((i for i, plan in enumerate(batch.updates) if any(is_fresh(p, k) for p, k in plan.rows)), None)


@dataclass(frozen=True)
class TokenTargets:
    """The rows of one micro-batch token by token; every field has shape [T].

    trained: tokens of rows with a weight above 0. on_policy: trained tokens that were sampled from their own prompt,
    in this step or an earlier one. fresh: those of them that were sampled in this step. unbounded: bool, tokens of
    off-policy rows whose ratio is not bounded.
    weights: the weight of the token's row, which multiplies the token's loss. advantages: that of the token's row.
    """

    trained: TokenLayout
    on_policy: TokenLayout
    fresh: TokenLayout
    unbounded: Tensor
    advantages: Tensor
    weights: Tensor
    rollout_logprobs: Tensor

    @classmethod
    def of(cls, rows: list[RowTarget], lengths: Tensor, logprobs: Tensor) -> TokenTargets:
        """lengths: int64 [rows], response tokens. logprobs: any [T] tensor with the wanted dtype and device."""
        packed = TokenLayout.packed(lengths)
        like = {"dtype": logprobs.dtype, "device": logprobs.device}

        def layout(members: list[bool]) -> TokenLayout:
            mask = packed.spread(torch.tensor(members, dtype=torch.bool, device=logprobs.device))
            return TokenLayout(mask, packed.sequence_index, packed.num_sequences)

        trained = [row.weight > 0 for row in rows]
        on_policy = [t and not row.response.off_policy for t, row in zip(trained, rows, strict=True)]
        fresh = [o and not row.carried for o, row in zip(on_policy, rows, strict=True)]
        unbounded = [row.response.off_policy and not row.response.bounded for row in rows]
        return cls(
            trained=layout(trained),
            on_policy=layout(on_policy),
            fresh=layout(fresh),
            unbounded=layout(unbounded).mask,
            advantages=packed.spread(torch.tensor([row.response.advantage for row in rows], **like)),
            weights=packed.spread(torch.tensor([row.weight for row in rows], **like)),
            rollout_logprobs=torch.tensor([x for row in rows for x in row.response.rollout_logprobs], **like),
        )

    def without(self, masked: Tensor) -> TokenTargets:
        """The same rows, with the tokens of `masked` (bool [T]) not trained on. `fresh` keeps them."""
        trained, on_policy = (replace(layout, mask=layout.mask & ~masked) for layout in (self.trained, self.on_policy))
        return replace(self, trained=trained, on_policy=on_policy)


class Objective:
    """Policy loss, KL term and entropy bonus over the rows of one micro-batch.

    truncation_nats: by how much the engine's log-probs may exceed the trainer's because it samples from the top_p or
    top_k part of the distribution (from the function `truncation_nats`).
    """

    def __init__(self, algorithm: AlgorithmConfig, truncation_nats: float) -> None:
        self._algorithm, self._truncation_nats = algorithm, truncation_nats
        self._policy_loss = PolicyLossSettings(
            algorithm.loss, algorithm.clip_low, algorithm.clip_high, algorithm.dual_clip
        )
        self._importance = None
        if algorithm.importance_cap is not None:
            self._importance = ImportanceSettings(
                algorithm.importance_level,
                algorithm.importance_mode,
                algorithm.importance_cap,
                algorithm.importance_floor or 0.0,
            )

    @property
    def kl_in_loss(self) -> bool:
        """Whether the loss has a KL term; with kl_placement "reward" the driver subtracts the KL from the rewards."""
        return self._algorithm.kl_coefficient > 0 and self._algorithm.kl_placement == "loss"

    def denominator(self, lengths: Iterable[int]) -> float:
        """lengths: tokens of each response with a weight above 0, over the whole update and all ranks."""
        return self._denominator(*loss_counts(lengths))

    def kept_scale(self, sums: Mapping[str, float], denominator: float) -> float | None:
        """What the gradient of an update must be multiplied by, because some of its tokens are masked.

        A masked token is in no denominator, but which tokens are masked is known only after the forwards of all ranks.
        So `loss` divides by the denominator of all tokens, and this is denominator / denominator of the kept ones.

        sums: over all micro-batches and ranks.
        Returns None if every token is masked, and 1 with importance_mode truncate.
        Example: token_mean with 10 tokens, 2 of them masked: 10 / 8.
        """
        if self._importance is None or self._importance.mode == "truncate":
            return 1.0
        if not sums["num_tokens"]:
            return None
        return denominator / self._denominator(int(sums["num_tokens"]), int(sums["num_sequences"]))

    def _denominator(self, num_tokens: int, num_sequences: int) -> float:
        algorithm = self._algorithm
        return loss_denominator(algorithm.reduction, num_tokens, num_sequences, algorithm.reduction_tokens)

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
        """This micro-batch's part of the loss (scalar, with gradient) and its sums:

            w (importance x policy loss + kl_coefficient x KL(policy || reference) - entropy_coefficient x entropy)

        reduced over the update. w is the weight of the token's response. It scales the three terms but not the
        denominator, in which every response with w > 0 counts fully. Tokens that importance_mode=mask rejects have no
        part in the loss; `kept_scale` corrects the denominator.

        logprobs, entropy, old_logprobs, ref_logprobs: float [T], the rows' response tokens one after the other.
        old_logprobs: of the weights before the step's first update; None in the first update, where `logprobs` are the
        old ones (ratio 1). ref_logprobs: None if the loss has no KL term. compare_rollout: whether this update is the
        one of `compared_update`.
        """
        algorithm = self._algorithm
        tokens = TokenTargets.of(rows, lengths, logprobs)
        old = logprobs.detach() if old_logprobs is None else old_logprobs
        rollout_sums = self._rollout_sums(old, tokens, compare_rollout)
        importance, weight_sums, tokens = self._importance_weights(old, tokens)
        off_policy = ~tokens.on_policy.mask
        result = policy_loss(
            logprobs, old, tokens.advantages, tokens.trained, self._policy_loss, off_policy, tokens.unbounded
        )
        pg_loss = self._reduced(result.token_losses * importance * tokens.weights, tokens.trained, denominator)
        loss, kl_loss = pg_loss, torch.zeros_like(pg_loss)
        if ref_logprobs is not None:
            on_policy = tokens.on_policy
            kl = kl_estimate(on_policy.keep(logprobs), on_policy.keep(ref_logprobs), algorithm.kl_estimator)
            kl_loss = self._reduced(kl * tokens.weights, on_policy, denominator)
            loss = loss + algorithm.kl_coefficient * kl_loss
        if algorithm.entropy_coefficient > 0:
            bonus = self._reduced(entropy * tokens.weights, tokens.trained, denominator)
            loss = loss - algorithm.entropy_coefficient * bonus
        return loss, UpdateSums(
            loss=loss.detach(),
            pg_loss=pg_loss.detach(),
            kl_loss=kl_loss.detach(),
            entropy=tokens.trained.keep(entropy.detach()).sum(),
            num_tokens=tokens.trained.mask.sum(),
            num_sequences=(tokens.trained.lengths() > 0).sum(),
            num_on_policy=result.num_tokens,
            num_clipped=result.num_clipped,
            num_dual_clipped=result.num_dual_clipped,
            ppo_kl=result.kl_sum,
            **weight_sums,
            **rollout_sums,
        )

    def _reduced(self, values: Tensor, layout: TokenLayout, denominator: float) -> Tensor:
        return reduce_loss(values, layout, self._algorithm.reduction, denominator)

    def _importance_weights(self, old: Tensor, tokens: TokenTargets) -> tuple[Tensor, dict[str, Tensor], TokenTargets]:
        """The factor of each token's policy loss, sums for metrics, and the targets without masked tokens.

        The factor is 1 for every token if no cap is set. With a cap, off-policy tokens still get 1, because their
        rollout log-probs are of another prompt.
        """
        if self._importance is None:
            none = old.new_zeros(())
            names = ("importance_weight", "num_weights", "num_capped", "num_masked")
            return torch.ones_like(old), dict.fromkeys(names, none), tokens
        found = importance_weights(old, tokens.rollout_logprobs, tokens.on_policy, self._importance)
        sums = {
            "importance_weight": found.sum,
            "num_weights": found.num_kept,
            "num_capped": found.num_capped,
            "num_masked": found.num_masked,
        }
        return torch.where(tokens.on_policy.mask, found.weights, 1.0), sums, tokens.without(found.masked)

    def _rollout_sums(self, old: Tensor, tokens: TokenTargets, compare: bool) -> dict[str, Tensor]:
        """How far the engine's log-probs are from the trainer's."""
        rollout = tokens.rollout_logprobs
        compared = replace(tokens.fresh, mask=tokens.fresh.mask & compare)
        # Sampling with top_p renormalises the engine's probabilities: its log-probs may be higher by up to -ln(top_p).
        # Such a difference is not a mismatch.
        forgiven = rollout - (rollout - old).clamp(0.0, self._truncation_nats)
        difference = logprob_difference(old, forgiven, compared)
        return {
            "difference": difference.sum,
            "rollout_kl": engine_kl(old, rollout, compared),
            "num_compared": difference.num_tokens,
            "difference_max": difference.max,
        }

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """sums: over all micro-batches and ranks of one update. Their losses are already multiplied by `kept_scale`."""
        algorithm = self._algorithm
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
        if self.kl_in_loss:
            metrics["actor/kl_coef"] = algorithm.kl_coefficient
        return metrics | self.rollout_metrics(sums)

    def rollout_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Those of `metrics` that compare engine and trainer. An update with all tokens masked has them too."""
        metrics = {}
        if self._importance is not None:
            kept, weighted = max(sums["num_weights"], 1.0), max(sums["num_weights"] + sums["num_masked"], 1.0)
            if sums["num_weights"]:
                metrics["rollout/importance_weight/mean"] = sums["importance_weight"] / kept
            if self._importance.mode == "truncate":
                metrics["rollout/importance_weight/capped"] = sums["num_capped"] / kept
            else:
                metrics["rollout/importance_weight/masked"] = sums["num_masked"] / weighted
        if sums["num_compared"]:
            metrics["rollout/logprob_diff_max"] = sums["difference_max"]
            metrics["rollout/logprob_diff_mean"] = sums["difference"] / sums["num_compared"]
            metrics["rollout/kl"] = sums["rollout_kl"] / sums["num_compared"]
        return metrics


def truncation_nats(top_p: float, top_k: int) -> float:
    """By how much top_p or top_k sampling can raise a token's log-prob. Example: top_p 0.9 -> -ln(0.9) = 0.105."""
    return math.inf if top_k > 0 else -math.log(top_p)
