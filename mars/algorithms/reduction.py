"""Reduces token losses to one number. The denominators count the tokens or sequences of the whole update batch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from torch import Tensor

from mars.algorithms.token_layout import TokenLayout
from mars.errors import ConfigError

Reduction = Literal["token_mean", "seq_mean_token_sum", "seq_mean_token_mean", "seq_mean_token_sum_norm"]


def loss_counts(lengths: Iterable[int]) -> tuple[int, int]:
    """(num_tokens, num_sequences) of a whole update batch over all ranks.

    lengths: trained tokens of each response. A response without a trained token is not a sequence.

    Example:
    >>> loss_counts([3, 0, 2])
    (5, 2)
    """
    present = [length for length in lengths if length > 0]
    return sum(present), len(present)


def loss_denominator(reduction: Reduction, num_tokens: int, num_sequences: int, constant_tokens: int | None) -> float:
    """The number that `reduce_loss` divides by.

        token_mean                num_tokens                         mean over all tokens (DAPO)
        seq_mean_token_sum        num_sequences                      mean over sequences of their sums
        seq_mean_token_mean       num_sequences                      mean over sequences of their means (GRPO's paper)
        seq_mean_token_sum_norm   num_sequences * constant_tokens    mean of sums divided by a constant (Dr. GRPO)

    num_tokens, num_sequences: from `loss_counts`. Raises ValueError for a batch without a token, and ConfigError for
    seq_mean_token_sum_norm without constant_tokens.

    Example: 3 responses with 10 tokens in all: token_mean 10, seq_mean_token_sum 3.
    """
    if num_tokens <= 0 or num_sequences <= 0:
        raise ValueError(f"an update batch without tokens has no loss; got {num_tokens} in {num_sequences} sequences")
    match reduction:
        case "token_mean":
            return float(num_tokens)
        case "seq_mean_token_sum" | "seq_mean_token_mean":
            return float(num_sequences)
        case "seq_mean_token_sum_norm":
            if constant_tokens is None:
                raise ConfigError(
                    "algorithm.reduction_tokens: seq_mean_token_sum_norm divides by it; got null; "
                    "set it, e.g. to rollout.max_response_tokens"
                )
            return float(num_sequences * constant_tokens)
    raise ConfigError(f"algorithm.reduction: unknown; got {reduction}; use one of {get_args(Reduction)}")


def reduce_loss(token_losses: Tensor, layout: TokenLayout, reduction: Reduction, denominator: float) -> Tensor:
    """This micro-batch's part of the loss: a scalar. The parts of all micro-batches and ranks add up to the loss.

    token_losses: the layout's shape. FSDP and DDP average gradients over ranks: with them, multiply the loss by the
    number of ranks.

    Example: losses 1, 2, 3 in sequences of 1 and 2 tokens: seq_mean_token_mean is (1/1 + (2 + 3)/2) / 2 = 1.75.
    """
    if reduction == "seq_mean_token_mean":
        token_losses = token_losses / layout.spread(layout.lengths().clamp(min=1))
    return layout.keep(token_losses).sum() / denominator
