"""Difference of engine and trainer log-probs: its size, and importance weights that correct for it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mars.algorithms.kl import kl_estimate
from mars.algorithms.token_layout import TokenLayout
from mars.errors import ConfigError


@dataclass(frozen=True)
class LogprobDifference:
    """|old_logprobs - rollout_logprobs| in nats over the counted tokens of this micro-batch, as scalars.

    Over micro-batches and ranks: take the largest `max`, add up `sum` and `num_tokens`.
    """

    max: Tensor
    sum: Tensor
    num_tokens: Tensor


def logprob_difference(old_logprobs: Tensor, rollout_logprobs: Tensor, layout: TokenLayout) -> LogprobDifference:
    """The difference over the tokens in the mask; `max` is 0 if there are none. Both log-probs have the layout's shape.

    The mask must leave out off-policy tokens, because their rollout log-probs belong to another prompt.

    Example: old (-1, -2), rollout (-1.5, -2): max 0.5, sum 0.5, num_tokens 2.
    """
    difference = layout.keep(old_logprobs.detach() - rollout_logprobs).abs()
    largest = difference.max() if difference.numel() else difference.new_zeros(())
    return LogprobDifference(max=largest, sum=difference.sum(), num_tokens=layout.mask.sum())


def engine_kl(old_logprobs: Tensor, rollout_logprobs: Tensor, layout: TokenLayout) -> Tensor:
    """The k3 estimate of KL(engine || trainer), summed over the tokens in the mask, in nats; a float64 scalar.

    With d = rollout_logprobs - old_logprobs, the estimate of a token is exp(-d) - 1 + d. With top_p sampling the
    estimate is not 0 even if engine and trainer agree: a token whose nucleus has probability m contributes
    -ln(m) - (1 - m).

    Example: old (-1, -2), rollout (-1.5, -2): d = (-0.5, 0), sum exp(0.5) - 1.5 = 0.149.
    """
    rollout, old = layout.keep(rollout_logprobs.double()), layout.keep(old_logprobs.detach().double())
    return kl_estimate(rollout, old, "k3").sum()


@dataclass(frozen=True)
class ImportanceSettings:
    """level: whether each token or each response has a weight, and how it is computed.

        token          each token: exp(d), with d = old_logprobs - rollout_logprobs
        sequence       each response: exp(sum of d over its tokens)
        sequence_mean  each response: exp(mean of d over its tokens)

    mode: what happens to a weight outside the bounds.

        truncate  a weight above `cap` becomes `cap` (Yao et al. 2025, "Your efficient RL framework secretly brings you
                  off-policy RL training")
        mask      a token or response whose weight is above `cap` or below `floor` is not trained on; others keep their
                  weight (Liu et al. 2025, "When speed kills stability: demystifying RL collapse from the
                  training-inference mismatch")

    floor: 0 for none. Only mode "mask" uses it.
    """

    level: Literal["token", "sequence", "sequence_mean"]
    mode: Literal["truncate", "mask"]
    cap: float
    floor: float

    def __post_init__(self) -> None:
        if self.level not in ("token", "sequence", "sequence_mean"):
            raise ConfigError(
                f"algorithm.importance_level: unknown; got {self.level}; use token, sequence or sequence_mean"
            )
        if self.mode not in ("truncate", "mask"):
            raise ConfigError(f"algorithm.importance_mode: unknown; got {self.mode}; use truncate or mask")


@dataclass(frozen=True)
class ImportanceWeights:
    """The weights of a micro-batch's tokens, and the sums that metrics are computed from.

    weights: the layout's shape; 0 outside the layout's mask and where `masked` is True. No gradient.
    masked: bool, the layout's shape; True for tokens in the layout's mask that `mode` "mask" rejects.
    sum: of the weights of what is trained on, after truncation. num_kept: the number of these weights.
    num_capped: how many of these weights were cut to `cap`. num_masked: how many weights were rejected.

    sum and the three numbers are scalars; add them up over micro-batches and ranks. If the level
    is "token", each weight is that of a token; with the other levels it is that of a response.
    """

    weights: Tensor
    masked: Tensor
    sum: Tensor
    num_kept: Tensor
    num_capped: Tensor
    num_masked: Tensor


def importance_weights(
    old_logprobs: Tensor, rollout_logprobs: Tensor, layout: TokenLayout, settings: ImportanceSettings
) -> ImportanceWeights:
    """Weights of the policy loss that correct for the difference of the engine's and the trainer's distribution.

    A weight that is NaN is neither cut nor masked, so that the loss becomes NaN too. The sum over a response of
    d = old_logprobs - rollout_logprobs is computed in float64.

    Example: old (-1, -1), rollout (-1.5, -0.5), one response, cap 1.2: d = (0.5, -0.5). token: weights
    exp(0.5) = 1.649, cut to 1.2, and 0.607. sequence and sequence_mean: exp(0) = 1 for both tokens.
    """
    log_weights, counted = layout.keep(old_logprobs.detach() - rollout_logprobs), layout.mask
    if settings.level != "token":
        lengths = layout.lengths()
        log_weights, counted = layout.sum_by_sequence(log_weights.double()), lengths > 0
        if settings.level == "sequence_mean":
            log_weights = log_weights / lengths.clamp(min=1)
    above = counted & (log_weights > math.log(settings.cap))
    masked = torch.zeros_like(above)
    weights = log_weights.exp().clamp(max=settings.cap)
    if settings.mode == "mask":
        lowest = math.log(settings.floor) if settings.floor > 0 else -math.inf
        masked = above | counted & (log_weights < lowest)
    kept = counted & ~masked
    weights = torch.where(kept, weights, 0.0)
    sums = {"sum": weights.sum(), "num_kept": kept.sum(), "num_masked": masked.sum()}
    sums["num_capped"] = (above & ~masked).sum()
    if settings.level != "token":
        weights = layout.keep(layout.spread(weights.to(old_logprobs.dtype)))
        masked = layout.mask & layout.spread(masked)
    return ImportanceWeights(weights=weights, masked=masked, **sums)
