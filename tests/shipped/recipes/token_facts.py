"""What a token rule is given of a forward, made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mars.algorithms.token_layout import TokenLayout
from mars.algorithms.token_rule import TokenFacts


def facts_of(
    logprobs: Tensor, masked: Tensor, lengths: Sequence[int], *, old: Tensor | None = None,
    advantages: Sequence[float] | None = None, trained: Sequence[bool] | None = None,
    with_images: Sequence[bool] | None = None,
) -> TokenFacts:  # fmt: skip
    """Of responses of these lengths. masked: log-probs of the pass "masked". with_images: of each response; None: all.

    advantages: of each response, 0 if None. trained: of each token, all if None; the others are 0 everywhere, as the
    trainer makes them.
    """
    layout = TokenLayout.packed(torch.tensor(lengths, dtype=torch.long))
    if trained is not None:
        layout = TokenLayout(torch.tensor(trained, dtype=torch.bool), layout.sequence_index, layout.num_sequences)
    given = logprobs.new_tensor([0.0] * len(lengths) if advantages is None else list(advantages))
    keep, shown = layout.keep, [True] * len(lengths) if with_images is None else list(with_images)
    return TokenFacts(
        logprobs=keep(logprobs),
        old=keep(logprobs.detach() if old is None else old),
        reference=None,
        entropy=torch.zeros_like(logprobs.detach()),
        extra={"masked": keep(masked)},
        advantages=keep(layout.spread(given)),
        off_policy=torch.zeros_like(layout.mask),
        guests=torch.zeros_like(layout.mask),
        with_images=layout.mask & layout.spread(torch.tensor(shown, dtype=torch.bool)),
        layout=layout,
        settings={},
    )
