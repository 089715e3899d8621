"""Per-token estimators of KL(policy || reference) from samples (Schulman, "Approximating KL divergence")."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mars.errors import ConfigError

KlEstimator = Literal["k1", "k2", "k3", "abs"]
_MOST_NATS = 20.0  # exp of it is far from infinity, which would make gradients NaN


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, estimator: KlEstimator) -> Tensor:
    """KL of each token, in nats; same shape as the arguments. With d = logprobs - ref_logprobs:

        k1 = d        abs = |d|        k2 = d^2 / 2        k3 = exp(-d) - 1 + d

    k1 and k3 are unbiased estimates of the KL; k2 and k3 are never negative. If padding may hold NaN, pass both
    arguments through `TokenLayout.keep` first, or NaN would reach the gradient.

    Example: logprobs -1, reference -2: d = 1, k1 = 1, k2 = 0.5, k3 = 0.368.
    """
    difference = logprobs - ref_logprobs
    match estimator:
        case "k1":
            return difference
        case "abs":
            return difference.abs()
        case "k2":
            return difference.square() / 2
        case "k3":
            return torch.expm1(-difference) + difference
    raise ConfigError(f"algorithm.kl_estimator: unknown; got {estimator}; use k1, k2, k3 or abs")


def capped_k3(logprobs: Tensor, changed: Tensor, cap: float) -> Tensor:
    """How much a token depends on a change of its input: k3 of `kl_estimate`, at most `cap`; shape of the arguments.

    changed: log-probs of the same tokens after the change, such as masked images. A difference counts as at most 20
    nats. Where this limit or `cap` applies, no gradient flows. For finite arguments neither the value nor the
    gradient is NaN.

    Example: logprobs -1, changed -2: 0.368. With changed -1e9 it is min(exp(-20) + 19, cap).
    """
    difference = (changed - logprobs).clamp(-_MOST_NATS, _MOST_NATS)
    return (torch.expm1(difference) - difference).clamp(max=cap)
