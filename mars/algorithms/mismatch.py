"""Mismatch of engine and trainer log-probs: how large it is, and importance weights that correct for it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from mars.algorithms.kl import kl_estimate
from mars.algorithms.token_layout import TokenLayout


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
    """Sum over the counted tokens of the k3 estimate of KL(engine || trainer), in nats; a float64 scalar.

    The tokens were sampled by the engine. With d = rollout_logprobs - old_logprobs, the estimate of a token is
    exp(-d) - 1 + d, which is never negative. With top_p sampling it is not 0 even if engine and trainer agree: a token
    whose nucleus has the probability m contributes -ln(m) - (1 - m).

    Example: old (-1, -2), rollout (-1.5, -2): d = (-0.5, 0), sum exp(0.5) - 1.5 = 0.149.
    """
    rollout, old = layout.keep(rollout_logprobs.double()), layout.keep(old_logprobs.detach().double())
    return kl_estimate(rollout, old, "k3").sum()


def importance_weights(old_logprobs: Tensor, rollout_logprobs: Tensor, layout: TokenLayout, cap: float) -> Tensor:
    """min(exp(old_logprobs - rollout_logprobs), cap) at each token, 0 outside the mask; no gradient.

    The token losses are multiplied by these weights, to correct for the difference between the engine's and the
    trainer's distribution (truncated importance sampling: Yao et al. 2025, "Your efficient RL framework secretly brings
    you off-policy RL training").

    Example: old -1, rollout -1.5, cap 2: exp(0.5) = 1.649.
    """
    log_ratio = layout.keep(old_logprobs.detach() - rollout_logprobs)
    return layout.keep(log_ratio.exp().clamp(max=cap))


def num_capped(old_logprobs: Tensor, rollout_logprobs: Tensor, layout: TokenLayout, cap: float) -> Tensor:
    """Number of counted tokens whose importance weight is cut to `cap`: int64 scalar."""
    return (layout.mask & (old_logprobs.detach() - rollout_logprobs > math.log(cap))).sum()
