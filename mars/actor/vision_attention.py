"""Attention of vision towers over a sequence of segments (windows or whole images). Each attends only to itself.

With "sdpa", transformers makes one call per window: 160 calls in every layer for two images of 1280 x 1024. On a GPU,
launching these calls would take longer than all of the model's arithmetic.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from mars.actor.prefix_attention import takes_varlen

# transformers passes the segments' ends only to attentions with "flash" in their name. It calls all others once for
# each segment.
SEGMENTS = "mars_flash_segments"


def use_segments(visual: nn.Module) -> None:
    """Let the vision tower of a loaded model use this attention.

    Sets a private attribute, because transformers' public setter would take the name `SEGMENTS` for that of a package,
    and try to import it.
    """
    from transformers import AttentionInterface

    AttentionInterface.register(SEGMENTS, segment_attention)
    visual.config._attn_implementation = SEGMENTS


def segment_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query, key and value [1, H, N, D] -> [1, N, H, D]. Gives None for the weights.

    cu_seq_lens_q: int32 [segments + 1], cumulative lengths from 0; max_length_q: tokens of the longest segment.
    Raises NotImplementedError for a mask or dropout.
    """
    if attention_mask is not None or dropout:
        raise NotImplementedError("the vision tower's attention supports no mask and no dropout")
    query, key, value = (x[0].transpose(0, 1).to(value.dtype) for x in (query, key, value))
    if takes_varlen(query):
        from torch.nn.attention.varlen import varlen_attn

        ends = (cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q)
        return varlen_attn(query, key, value, *ends, scale=scaling).unsqueeze(0), None
    return attend_batched(query, key, value, cu_seq_lens_q, scaling).unsqueeze(0), None


def attend_batched(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, scale: float) -> Tensor:
    """query, key, value [N, H, D] -> [N, H, D]. Adjacent segments of equal length are computed as one batch.

    ends: [segments + 1], cumulative lengths from 0.

    Example: ends 0 4 8 10 make two calls, one for a batch of two windows of 4 tokens and one for a window of 2.
    """
    runs = [(length, len(list(run))) for length, run in groupby(ends.diff().tolist())]
    outputs = []
    parts = (x.split([length * count for length, count in runs]) for x in (query, key, value))
    for (_, count), *tensors in zip(runs, *parts, strict=True):
        batch = (x.unflatten(0, (count, -1)).transpose(1, 2) for x in tensors)
        outputs.append(scaled_dot_product_attention(*batch, scale=scale).transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)
