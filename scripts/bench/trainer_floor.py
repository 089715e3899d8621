"""The floor of a forward and backward: the operations and bytes that no implementation can avoid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

FLOAT_BYTES = 4
FORWARD = 1
# A backward costs two forwards: one for the gradients of the inputs and one for those of the weights.
FORWARD_AND_BACKWARD = 3


@dataclass(frozen=True)
class Work:
    """operations: multiplications and additions of all matrix products.

    bytes: every weight, input and output of each linear layer, moved once per pass.
    """

    operations: float
    bytes: float

    def __add__(self, other: Work) -> Work:
        return Work(self.operations + other.operations, self.bytes + other.bytes)

    def times(self, count: int) -> Work:
        return Work(self.operations * count, self.bytes * count)


def causal_pairs(tokens: int, before: int = 0) -> int:
    """(query, key) pairs if each token sees `before` tokens of another part, the earlier tokens of its own, and itself.

    Example: 3 tokens after 2 see 3, 4 and 5 keys -> 12.
    """
    return tokens * before + tokens * (tokens + 1) // 2


def row_pairs(prompt: int, responses: Sequence[int]) -> int:
    """Pairs if each response has its own row, after its own copy of the prompt."""
    return sum(causal_pairs(prompt + response) for response in responses)


def group_pairs(prompt: int, responses: Sequence[int]) -> int:
    """Pairs if the prompt is computed once. Example: prompt 2, responses 1 and 2 -> 3 + 3 + 7 = 13; `row_pairs`: 16."""
    return causal_pairs(prompt) + sum(causal_pairs(response, prompt) for response in responses)


def window_pairs(height: int, width: int, window: int) -> int:
    """(query, key) pairs of an image of height * width patches in windows of window * window, cut at the border.

    Example: 10 x 8 patches in windows of 8 are 64 and 16 patches -> 64 * 64 + 16 * 16 = 4352.
    """
    heights, widths = ([min(window, side - start) for start in range(0, side, window)] for side in (height, width))
    return sum((h * w) ** 2 for h in heights for w in widths)


def linear_work(module: nn.Module, tokens: int, passes: int) -> Work:
    """The work of all linear layers in `module`, each applied to `tokens` inputs at once."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    weights = sum(layer.weight.numel() for layer in layers)
    moved = sum(tokens * (layer.in_features + layer.out_features) + layer.weight.numel() for layer in layers)
    return Work(passes * 2.0 * weights * tokens, passes * FLOAT_BYTES * float(moved))


def attention_work(width: int, pairs: int, layers: int, passes: int) -> Work:
    """The work of scores and weighted values. width: heads * head size. No bytes, because `linear_work` counts them."""
    return Work(passes * 4.0 * width * pairs * layers, 0.0)


def vision_work(visual: nn.Module, side: int, images: int, passes: int) -> Work:
    """The work of Qwen2.5-VL's vision tower for `images` square images of side * side patches at once."""
    config, patches = visual.config, images * side * side
    window = config.window_size // config.patch_size
    full = len(config.fullatt_block_indexes)
    pairs = images * (full * side**4 + (config.depth - full) * window_pairs(side, side, window))
    # Pixels need no gradient.
    embedding = Work(max(passes - 1, FORWARD) * 2.0 * visual.patch_embed.proj.weight.numel() * patches, 0.0)
    return (
        embedding
        + linear_work(visual.blocks, patches, passes)
        + attention_work(config.hidden_size, pairs, 1, passes)
        + linear_work(visual.merger, patches // config.spatial_merge_size**2, passes)
    )


def language_work(backbone: nn.Module, tokens: int, pairs: int, scored: int, passes: int) -> Work:
    """The work of the decoder for `tokens` at once.

    pairs: of query and key, in each layer's attention. scored: tokens for which the head computes logits.
    """
    decoder = backbone.model.language_model
    return (
        linear_work(decoder, tokens, passes)
        + decoder_attention(decoder.config, pairs, passes)
        + linear_work(backbone.lm_head, scored, passes)
    )


def decoder_attention(config: Any, pairs: int, passes: int) -> Work:
    """The attention work of all decoder layers, with `pairs` in each. config: that of the decoder."""
    return attention_work(config.num_attention_heads * head_size(config), pairs, config.num_hidden_layers, passes)


def head_size(config: Any) -> int:
    """Head size of the attention in the decoder."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def floor_seconds(work: Work, operations_per_second: float, bytes_per_second: float) -> float:
    """The time of the operations or of the bytes, whichever is longer."""
    return max(work.operations / operations_per_second, work.bytes / bytes_per_second)
