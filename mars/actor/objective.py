"""The loss of one optimizer step, and the sums behind its metrics. Knows neither the model nor the other ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mars.actor.rule_terms import RuleInputs
from mars.actor.targets import RowTarget, TokenTargets
from mars.actor.update_sums import UpdateSums, mean_metrics
from mars.algorithms.kl import kl_estimate
from mars.algorithms.mismatch import (
    ImportanceSettings,
    engine_kl,
    importance_weights,
    logprob_difference,
)
from mars.algorithms.policy_loss import PolicyLoss, PolicyLossSettings, policy_loss
from mars.algorithms.reduction import loss_counts, loss_denominator, reduce_loss
from mars.algorithms.token_layout import TokenLayout
from mars.algorithms.token_rule import TokenTerms
from mars.config.algorithm_section import AlgorithmConfig
from mars.config.ramp_section import OF_ALGORITHM

_NO_TERMS = TokenTerms()


class Objective:
    """Policy loss, KL term and entropy bonus over the rows of one micro-batch.

    truncation_nats: by how much the engine's log-probs may exceed the trainer's (see the function `truncation_nats`).
    """

    def __init__(self, algorithm: AlgorithmConfig, truncation_nats: float) -> None:
        self._algorithm, self._truncation_nats = algorithm, truncation_nats
        self._settings = PolicyLossSettings(
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

    def at(self, settings: Mapping[str, float]) -> Objective:
        """The objective of a step. settings: the step's values of `ramps`, by key (`TrainBatch.settings`)."""
        changes = {f"algorithm.{name}": name for name in OF_ALGORITHM if f"algorithm.{name}" in settings}
        if not changes:
            return self
        update = {name: settings[key] for key, name in changes.items()}
        return Objective(self._algorithm.model_copy(update=update), self._truncation_nats)

    @property
    def kl_in_loss(self) -> bool:
        """Whether the loss has a KL term; with kl_placement "reward" the driver subtracts the KL from the rewards."""
        return self._algorithm.kl_coefficient > 0 and self._algorithm.kl_placement == "loss"

    def denominator(self, lengths: Iterable[int]) -> float:
        """lengths: tokens of each response with a weight above 0, over the whole update and all ranks."""
        return self._denominator(*loss_counts(lengths))

    def kept_scale(self, sums: Mapping[str, float], denominator: float) -> float | None:
        """The factor for the gradient of an update in which importance_mode mask rejects (masks) some tokens.

        The denominator must not count masked tokens, but which tokens are masked is known only after the forwards of
        all ranks. So `loss` divides by the denominator of all tokens, and the factor is this denominator / the
        denominator of the kept tokens.

        sums: over all micro-batches and ranks.
        Returns None if every token is masked, and 1 with importance_mode truncate or without importance weights.
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
        rule: RuleInputs | None = None,
    ) -> tuple[Tensor, UpdateSums]:
        """This micro-batch's part of the loss (scalar, with gradient), and the sums for its metrics. The loss is

            w (importance x policy loss + kl_coefficient x KL(policy || reference) - entropy_coefficient x entropy)

        reduced over the update. w is the weight of the token's response. It scales the three terms but not the
        denominator, in which every response with w > 0 counts fully. Tokens that importance_mode=mask rejects have no
        part in the loss; `kept_scale` corrects the denominator. Off-policy tokens have no KL term.

        logprobs, entropy, old_logprobs, ref_logprobs: float [T], the rows' response tokens one after the other.
        old_logprobs: with the weights before the step's first update; None in the first update, where `logprobs` are
        also the old ones (ratio 1). ref_logprobs: None if the loss has no KL term. compare_rollout: whether to
        compare old and rollout log-probs (`compared_update`). rule: the token rule; changes or adds terms, scaled by w.
        """
        algorithm = self._algorithm
        tokens = TokenTargets.of(rows, lengths, logprobs)
        old = logprobs.detach() if old_logprobs is None else old_logprobs
        rollout_sums = self._rollout_sums(old, tokens, compare_rollout)
        importance, weight_sums, tokens = self._importance_weights(old, tokens)
        terms = _NO_TERMS if rule is None else rule.terms(logprobs, old, ref_logprobs, entropy, tokens)
        result = self._policy_loss(logprobs, old, tokens, terms)
        factor = tokens.weights if terms.pg_weights is None else tokens.weights * terms.pg_weights.detach()
        pg_loss = self._reduced(result.token_losses * importance * factor, tokens.trained, denominator)
        loss, kl_loss, rule_loss = pg_loss, torch.zeros_like(pg_loss), torch.zeros_like(pg_loss)
        if ref_logprobs is not None:
            kl_loss = self._reduced(self._kl(logprobs, ref_logprobs, tokens), tokens.on_policy, denominator)
            loss = loss + algorithm.kl_coefficient * kl_loss
        if algorithm.entropy_coefficient > 0:
            bonus = self._reduced(entropy * tokens.weights, tokens.trained, denominator)
            loss = loss - algorithm.entropy_coefficient * bonus
        if terms.extra_loss is not None:
            rule_loss = self._reduced(terms.extra_loss * tokens.weights, tokens.trained, denominator)
            loss = loss + rule_loss
        return loss, UpdateSums(
            loss=loss.detach(),
            pg_loss=pg_loss.detach(),
            kl_loss=kl_loss.detach(),
            rule_loss=rule_loss.detach(),
            entropy=tokens.trained.keep(entropy.detach()).sum(),
            num_tokens=tokens.trained.mask.sum(),
            num_sequences=(tokens.trained.lengths() > 0).sum(),
            num_on_policy=result.num_tokens,
            num_clipped=result.num_clipped,
            num_dual_clipped=result.num_dual_clipped,
            ppo_kl=result.kl_sum,
            **weight_sums,
            **rollout_sums,
            **({} if rule is None else _means(terms)),
        )

    def _policy_loss(self, logprobs: Tensor, old: Tensor, tokens: TokenTargets, terms: TokenTerms) -> PolicyLoss:
        advantages = tokens.advantages if terms.advantages is None else terms.advantages
        off_policy = ~tokens.on_policy.mask
        return policy_loss(logprobs, old, advantages, tokens.trained, self._settings, off_policy, tokens.unbounded)

    def _kl(self, logprobs: Tensor, ref_logprobs: Tensor, tokens: TokenTargets) -> Tensor:
        keep = tokens.on_policy.keep
        return kl_estimate(keep(logprobs), keep(ref_logprobs), self._algorithm.kl_estimator) * tokens.weights

    def _reduced(self, values: Tensor, layout: TokenLayout, denominator: float) -> Tensor:
        return reduce_loss(values, layout, self._algorithm.reduction, denominator)

    def _importance_weights(self, old: Tensor, tokens: TokenTargets) -> tuple[Tensor, dict[str, Tensor], TokenTargets]:
        """The factor of each token's policy loss, sums for metrics, and the targets without masked tokens.

        The factor of off-policy tokens is always 1, because their rollout log-probs belong to another prompt.
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

    def without_masked(self, old: Tensor, tokens: TokenTargets) -> TokenTargets:
        """The targets without the tokens that importance_mode=mask rejects, as in `loss`. old: float [T]."""
        return self._importance_weights(old, tokens)[2]

    def _rollout_sums(self, old: Tensor, tokens: TokenTargets, compare: bool) -> dict[str, Tensor]:
        """How far the engine's log-probs are from the trainer's. For the tokens of guests: the sum of the trainer's
        log-probs."""
        rollout = tokens.rollout_logprobs
        compared = replace(tokens.fresh, mask=tokens.fresh.mask & compare)
        # Sampling with top_p renormalises the engine's probabilities, so its log-probs may be higher by up to
        # -ln(top_p). Such a difference is not a mismatch.
        forgiven = rollout - (rollout - old).clamp(0.0, self._truncation_nats)
        difference = logprob_difference(old, forgiven, compared)
        return {
            "difference": difference.sum,
            "rollout_kl": engine_kl(old, rollout, compared),
            "num_compared": difference.num_tokens,
            "difference_max": difference.max,
            "guest_logprob": torch.where(tokens.guests, old, 0.0).sum(),
            "num_guest_tokens": tokens.guests.sum(),
        }

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """sums: over all micro-batches and ranks of one update, with the losses already multiplied by `kept_scale`."""
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
        if sums["num_guest_tokens"]:
            metrics["mars/guide/logprob"] = sums["guest_logprob"] / sums["num_guest_tokens"]
        return metrics | mean_metrics(sums) | self.rollout_metrics(sums)

    def rollout_metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """The part of `metrics` that compares engine and trainer. Also reported if all tokens of an update are
        masked."""
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


def _means(terms: TokenTerms) -> dict[str, Any]:
    """The means that a rule gave in one call, and their names: the fields `means` and `named` of `UpdateSums`."""
    means = {name: torch.stack(tuple(mean)).detach().double() for name, mean in terms.means.items()}
    return {"means": means, "named": frozenset([tuple(sorted(means))])}


def truncation_nats(top_p: float, top_k: int) -> float:
    """By how much top_p or top_k sampling can raise a token's log-prob. Example: top_p 0.9 -> -ln(0.9) = 0.105."""
    return math.inf if top_k > 0 else -math.log(top_p)
