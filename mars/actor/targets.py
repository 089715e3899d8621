"""The training targets of one forward: of each row (one response after its prompt), and of each token."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mars.algorithms.token_layout import TokenLayout
from mars.train_types import MicroBatch, TrainBatch, TrainResponse


@dataclass(frozen=True)
class RowTarget:
    """One row of a micro-batch. weight: of the response; 0 for a filler (`MicroBatch`).

    carried: that of its `TrainPrompt`. with_images: whether its prompt has an image.
    """

    response: TrainResponse
    weight: float
    carried: bool
    with_images: bool


def row_targets(batch: TrainBatch, micro: MicroBatch) -> list[RowTarget]:
    """The training targets of one forward, in the order of its rows."""
    targets = []
    for i, (p, k) in enumerate(micro.rows):
        prompt = batch.prompts[p]
        is_filler = i >= len(micro.rows) - micro.num_fillers
        weight = 0.0 if is_filler else prompt.responses[k].weight
        targets.append(RowTarget(prompt.responses[k], weight, prompt.carried, bool(prompt.images)))
    return targets


def compared_update(batch: TrainBatch) -> int | None:
    """Number of the update in which the trainer's log-probs are compared with the engine's; None if there is none.

    It is the first update that trains on a response that is neither carried nor off-policy.
    """

    def is_fresh(p: int, k: int) -> bool:
        response = batch.prompts[p].responses[k]
        trained = response.weight > 0 and len(response.token_ids) > 0
        return trained and not batch.prompts[p].carried and not response.off_policy

    return next((i for i, plan in enumerate(batch.updates) if any(is_fresh(p, k) for p, k in plan.rows)), None)


@dataclass(frozen=True)
class TokenTargets:
    """The rows of one micro-batch token by token; every field has shape [T].

    trained: tokens of rows with a weight above 0. on_policy: trained tokens that were sampled from their own prompt, in
    this step or an earlier one. fresh: on-policy tokens of prompts that are not carried. unbounded: bool, tokens of
    off-policy rows whose ratio is not bounded. guests: bool, trained tokens of guests of `anchor.guide`.
    with_images: bool, tokens of rows whose prompt has an image.
    weights, advantages: those of the token's row.
    """

    trained: TokenLayout
    on_policy: TokenLayout
    fresh: TokenLayout
    unbounded: Tensor
    guests: Tensor
    with_images: Tensor
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
            guests=layout([t and row.response.is_guest for t, row in zip(trained, rows, strict=True)]).mask,
            with_images=layout([row.with_images for row in rows]).mask,
            advantages=packed.spread(torch.tensor([row.response.advantage for row in rows], **like)),
            weights=packed.spread(torch.tensor([row.weight for row in rows], **like)),
            rollout_logprobs=torch.tensor([x for row in rows for x in row.response.rollout_logprobs], **like),
        )

    def without(self, masked: Tensor) -> TokenTargets:
        """The same rows, where the tokens of `masked` (bool [T]) are not trained on. `fresh` still has them."""
        trained, on_policy = (replace(layout, mask=layout.mask & ~masked) for layout in (self.trained, self.on_policy))
        return replace(self, trained=trained, on_policy=on_policy)
