"""The sequence that each token belongs to, and which tokens are trained on, for padded and packed batches alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenLayout:
    """The sequence to which each response token belongs, and whether the token is trained on.

    The tensors are either packed [T] or padded [B, R].

    Sequences are complete: none continues in another layout.

    mask: bool, True where a token is trained on.
    sequence_index: int64, same shape; the sequence of each token, 0 <= index < num_sequences, also outside the mask,
        where it has no meaning.

    Values outside the mask, even NaN, never reach a result of the functions here and in policy_loss.py.

    Example: two responses of 2 and 3 tokens, packed:
    >>> layout = TokenLayout.packed(torch.tensor([2, 3]))
    >>> layout.sequence_index.tolist(), layout.sum_by_sequence(torch.ones(5)).tolist()
    ([0, 0, 1, 1, 1], [2.0, 3.0])
    """

    mask: Tensor
    sequence_index: Tensor
    num_sequences: int

    def __post_init__(self) -> None:
        if self.mask.shape != self.sequence_index.shape or self.mask.dtype != torch.bool:
            raise ValueError(
                f"mask must be bool and shaped like sequence_index {tuple(self.sequence_index.shape)}; "
                f"got {self.mask.dtype} {tuple(self.mask.shape)}"
            )

    @classmethod
    def packed(cls, lengths: Tensor) -> TokenLayout:
        """Sequences of `lengths` (int64 [S]) one after the other: [T] with T = lengths.sum(), mask all True."""
        index = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
        return cls(torch.ones_like(index, dtype=torch.bool), index, len(lengths))

    @classmethod
    def padded(cls, mask: Tensor) -> TokenLayout:
        """One sequence in each row of `mask` (bool or 0/1, [B, R])."""
        rows = torch.arange(mask.shape[0], device=mask.device)
        return cls(mask.bool(), rows.unsqueeze(1).expand(mask.shape), mask.shape[0])

    def keep(self, values: Tensor) -> Tensor:
        """`values` (the layout's shape) with 0 outside the mask; no gradient flows there."""
        return torch.where(self.mask, values, torch.zeros((), dtype=values.dtype, device=values.device))

    def sum_by_sequence(self, values: Tensor) -> Tensor:
        """Sum of `values` (the layout's shape) over each sequence's tokens in the mask: [num_sequences]."""
        sums = torch.zeros(self.num_sequences, dtype=values.dtype, device=values.device)
        return sums.index_add(0, self.sequence_index.reshape(-1), self.keep(values).reshape(-1))

    def lengths(self) -> Tensor:
        """Counted tokens of each sequence: int64 [num_sequences]."""
        return self.sum_by_sequence(self.mask.long())

    def spread(self, per_sequence: Tensor) -> Tensor:
        """Give every token the value of its sequence: [num_sequences] -> the layout's shape."""
        return per_sequence[self.sequence_index]
