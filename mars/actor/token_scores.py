"""Log-probs and entropies of tokens from hidden states, without a [tokens, vocabulary] matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

# The logit of a token with probability 0. With -inf the entropy would contain 0 * -inf, which is NaN. With the lowest
# finite float its gradient could overflow to -inf and become NaN in the same way.
_BLOCKED = -1e30


def token_scores(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    blocked: Tensor,
    temperature: float | Tensor,
    chunk_tokens: int,
    entropy_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Log-probs of `targets` and the entropies of softmax(hidden weight^T / temperature) in nats, both float32 [T].

    hidden: [T, H]. weight: [V, H], of the language model's head. targets: int64 [T]. blocked: int64, ids that
    get probability 0. temperature: of all tokens, or float32 [T]. entropy_gradient: whether the entropies have a
    gradient.

    The logits of only `chunk_tokens` tokens are in memory, in at most two float32 buffers [chunk, V]. Backward computes
    the logits again instead of keeping them.

    The gradient of `weight` is added up over chunks in float32 or wider. With a 16-bit head and several chunks this
    takes 4 V H bytes, which are freed before the backward of any layer starts. With a bfloat16
    head, the error of this sum is 1.4 times the error of rounding the exact sum to bfloat16, with 16 chunks and with
    64. If the chunks were added up in bfloat16, it would be 2.8 times with 16 chunks and 5.5 times with 64 (measured on
    a CPU).

    >>> hidden, head, none = torch.tensor([[0.0]]), torch.tensor([[1.0], [2.0]]), torch.tensor([], dtype=torch.long)
    >>> token_scores(hidden, head, torch.tensor([1]), blocked=none, temperature=1.0, chunk_tokens=8,
    ...     entropy_gradient=False)  # two equal logits: ln(1/2) and ln 2
    (tensor([-0.6931]), tensor([0.6931]))
    """
    logprobs, entropies = _TokenScores.apply(  # type: ignore[misc]
        hidden, weight, targets, blocked, temperature, chunk_tokens, entropy_gradient
    )
    return logprobs, entropies


class _TokenScores(Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        blocked: Tensor,
        temperature: float | Tensor,
        chunk_tokens: int,
        entropy_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        logprobs = hidden.new_empty(len(hidden), dtype=torch.float32)
        entropies, normalizers = torch.empty_like(logprobs), torch.empty_like(logprobs)
        for rows in _chunks(len(hidden), chunk_tokens):
            logits = _logits(hidden[rows], weight, blocked, _at(temperature, rows))
            logprobs[rows], entropies[rows], normalizers[rows] = _scores(logits, targets[rows])
            del logits  # frees the memory for the next chunk
        ctx.save_for_backward(hidden, weight, targets, blocked, normalizers, entropies)
        ctx.temperature, ctx.chunk_tokens = temperature, chunk_tokens
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropies)
        ctx.entropy_gradient = entropy_gradient
        return logprobs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logprobs: Tensor, grad_entropies: Tensor):
        hidden, weight, targets, blocked, normalizers, entropies = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        chunks = _chunks(len(hidden), ctx.chunk_tokens)
        dtype = torch.promote_types(weight.dtype, torch.float32) if len(chunks) > 1 else weight.dtype
        grad_weight = torch.zeros_like(weight, dtype=dtype) if ctx.needs_input_grad[1] else None
        for rows in chunks:
            temperature = _at(ctx.temperature, rows)
            gradient = _logits(hidden[rows], weight, blocked, temperature)
            slope, entropy = grad_logprobs[rows], None
            if ctx.entropy_gradient:
                entropy = (entropies[rows], grad_entropies[rows])
            _to_gradient(gradient, normalizers[rows], targets[rows], slope, entropy)
            gradient = gradient.index_fill_(-1, blocked, 0.0).div_(temperature).to(weight.dtype)
            grad_hidden[rows] = gradient @ weight
            if grad_weight is not None:
                _add_product(grad_weight, gradient.T, hidden[rows])
            del gradient  # frees the memory for the next chunk
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype)
        return grad_hidden, grad_weight, None, None, None, None, None


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds left @ right to `total`, whose dtype may be wider."""
    if total.dtype == right.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)


def _scores(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-prob of the target, entropy and log of the normalizer for each row of `logits`. `logits` is not modified."""
    largest = logits.max(dim=-1, keepdim=True).values
    weights = (logits - largest).exp_()
    total = weights.sum(dim=-1)
    normalizer = total.log() + largest.squeeze(-1)
    entropies = normalizer - weights.mul_(logits).sum(dim=-1) / total
    return logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - normalizer, entropies, normalizer


def _to_gradient(
    logits: Tensor, normalizer: Tensor, targets: Tensor, slope: Tensor, entropy: tuple[Tensor, Tensor] | None
) -> None:
    """Turns logits z into the gradient of slope * logprob + slope_H * entropy H with respect to z, in place.

    d logprob / d z_j = [j is the target] - p_j. d H / d z_j = -p_j (log p_j + H). entropy: (H, slope_H), or None.
    """
    logs = logits.sub_(normalizer.unsqueeze(-1))
    if entropy is None:
        logs.exp_().mul_(-slope.unsqueeze(-1))
    else:
        probabilities = logs.exp()
        logs.add_(entropy[0].unsqueeze(-1)).mul_(entropy[1].unsqueeze(-1)).add_(slope.unsqueeze(-1))
        logs.mul_(probabilities).neg_()
    logs.scatter_add_(-1, targets.unsqueeze(-1), slope.unsqueeze(-1))


def _chunks(length: int, chunk_tokens: int) -> list[slice]:
    return [slice(start, start + chunk_tokens) for start in range(0, length, chunk_tokens)]


def _at(temperature: float | Tensor, rows: slice) -> float | Tensor:
    return temperature[rows].unsqueeze(-1) if isinstance(temperature, Tensor) else temperature


def _logits(hidden: Tensor, weight: Tensor, blocked: Tensor, temperature: float | Tensor) -> Tensor:
    logits = (hidden @ weight.T).float()
    if isinstance(temperature, Tensor) or temperature != 1.0:
        logits.div_(temperature)
    return logits.index_fill_(-1, blocked, _BLOCKED)
