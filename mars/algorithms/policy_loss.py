"""Per-token policy-gradient losses with a bounded importance ratio: clip (PPO, GRPO, DAPO), GSPO and CISPO."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mars.algorithms.token_layout import TokenLayout
from mars.errors import ConfigError

# Keeps exp finite in float32. A ratio this far from 1 is clipped anyway.
_MAX_LOG_RATIO = 20.0
# GSPO's ratio is a geometric mean over a response and stays close to 1: e^10 is far beyond any bound.
_MAX_SEQUENCE_LOG_RATIO = 10.0


@dataclass(frozen=True)
class PolicyLossSettings:
    """kind: which loss. The ratio is bounded to [1 - clip_low, 1 + clip_high].

    dual_clip: c > 1 bounds the loss of a token with a negative advantage by c * |A|; None: off. Only "clip" has it.
    """

    kind: Literal["clip", "gspo", "cispo"]
    clip_low: float
    clip_high: float
    dual_clip: float | None

    def __post_init__(self) -> None:
        if self.kind not in ("clip", "gspo", "cispo"):
            raise ConfigError(f"algorithm.loss: unknown; got {self.kind}; use clip, gspo or cispo")


@dataclass(frozen=True)
class PolicyLoss:
    """Token losses and the sums that metrics are computed from. All sums are scalars over this micro-batch: add them up
    over micro-batches and ranks, then divide by the total `num_tokens`.

    token_losses: shape of the `TokenLayout`, 0 outside its mask; the only field with a gradient.
    num_tokens: tokens in the mask that were sampled with their own prompt (not `off_policy`).
    num_clipped: of these tokens, those whose loss comes from the bounded ratio (actor/pg_clipfrac).
    num_dual_clipped: of these tokens, those whose loss comes from dual_clip (actor/pg_clipfrac_lower).
    kl_sum: the sum of old_logprobs - logprobs in nats over these tokens (actor/ppo_kl, the approximate KL of the
    update).
    """

    token_losses: Tensor
    num_tokens: Tensor
    num_clipped: Tensor
    num_dual_clipped: Tensor
    kl_sum: Tensor


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    layout: TokenLayout,
    settings: PolicyLossSettings,
    off_policy: Tensor | None = None,
    unbounded: Tensor | None = None,
) -> PolicyLoss:
    """Losses of response tokens; all tensors have the layout's shape (`layout.spread` gives tokens their advantage).

    With w = exp(logprobs - old_logprobs), b(w) = w bounded to [1 - clip_low, 1 + clip_high], sg = stop gradient:

        clip   max(-A w, -A b(w)), and for A < 0 at most -A dual_clip       (arXiv 1707.06347; dual: 1912.09729)
        gspo   max(-A s, -A b(s)), s = w_seq * exp(logprobs - sg(logprobs)),
               w_seq = sg(exp(mean of logprobs - old_logprobs over the sequence))        (arXiv 2507.18071, GSPO-token)
        cispo  -A sg(b(w)) logprobs                                                      (arXiv 2506.13585)

    off_policy: bool, tokens that were not sampled with this prompt. They have a loss, but the returned sums do not
    count them. unbounded: bool, tokens whose ratio is not bounded; None: the `off_policy` tokens. No gradient flows to
    old_logprobs or advantages.

    Example: A = 1, w = 1.5, bounds 0.2: loss -1.2, no gradient, clipped. A = -1: loss 1.5, gradient 1.5.
    """
    advantages = layout.keep(advantages.detach().to(logprobs.dtype))
    log_ratio = layout.keep(logprobs - old_logprobs.detach()).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    counted = layout.mask if off_policy is None else layout.mask & ~off_policy
    has_bounds = counted if unbounded is None else layout.mask & ~unbounded
    ratio = _sequence_ratio(logprobs, log_ratio, layout) if settings.kind == "gspo" else log_ratio.exp()
    bounded = ratio.clamp(1 - settings.clip_low, 1 + settings.clip_high)
    dual_clipped = torch.zeros_like(layout.mask)
    if settings.kind == "cispo":
        weight = torch.where(has_bounds, bounded, ratio).detach()
        losses = -advantages * weight * layout.keep(logprobs)
        clipped = bounded != ratio
    else:
        free, bound = -advantages * ratio, -advantages * bounded
        losses = torch.where(has_bounds, torch.maximum(free, bound), free)
        clipped = bound > free
        if settings.kind == "clip" and settings.dual_clip is not None:
            ceiling = -advantages * settings.dual_clip
            dual_clipped = has_bounds & (advantages < 0) & (losses > ceiling)
            losses = torch.where(dual_clipped, ceiling, losses)
    return PolicyLoss(
        token_losses=losses,
        num_tokens=counted.sum(),
        num_clipped=(clipped & counted).sum(),
        num_dual_clipped=(dual_clipped & counted).sum(),
        kl_sum=-torch.where(counted, log_ratio.detach(), 0.0).sum(),
    )


def _sequence_ratio(logprobs: Tensor, log_ratio: Tensor, layout: TokenLayout) -> Tensor:
    """For each token GSPO's ratio s of its sequence. The gradient of s is s times that of the token's log-prob."""
    mean = layout.sum_by_sequence(log_ratio.detach()) / layout.lengths().clamp(min=1)
    own = layout.keep(logprobs)
    return (own - own.detach() + layout.spread(mean)).clamp(max=_MAX_SEQUENCE_LOG_RATIO).exp()
