"""Model FLOPs of a step, computed from a Qwen2.5-VL's configuration, and their fraction of a GPU's peak (MFU).

FLOPs count each multiplication and each addition in the matrix products that an update needs, however prompts and
responses are arranged in micro-batches: every prompt token once, every response token once, the head at response tokens
only, each image once. Attention counts the pairs that its mask keeps. A backward costs two forwards: one for the
gradients of the inputs and one for those of the weights. Pixels need no gradient. With LoRA, neither do frozen weights,
nor anything below the first adapter. Recomputation (activation checkpointing) is not counted, so the result is model
FLOPs utilisation, MFU (Chowdhery et al. 2022, arXiv 2204.02311, appendix B), not hardware FLOPs utilisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scripts.bench.trainer_floor import group_pairs, window_pairs

# Dense peak of the tensor cores in bfloat16 with float32 sums, in TFLOP/s, from NVIDIA's data sheets, by torch's name
# of the device. Where data sheets assume structured sparsity, they print twice as much.
PEAK_TFLOPS = {
    "NVIDIA H200": 989.4,
    "NVIDIA H100 80GB HBM3": 989.4,
    "NVIDIA GH200 480GB": 989.4,
    "NVIDIA H100 PCIe": 756.0,
    "NVIDIA A100-SXM4-40GB": 312.0,
    "NVIDIA A100-SXM4-80GB": 312.0,
    "NVIDIA A100-PCIE-40GB": 312.0,
    "NVIDIA A100 80GB PCIe": 312.0,
    "NVIDIA L40S": 362.0,
}


class UnknownGpu(Exception):
    """The GPU is not in PEAK_TFLOPS, and no peak was given."""


@dataclass(frozen=True)
class Flops:
    """FLOPs of one forward and of its backward."""

    forward: float
    backward: float

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.forward + other.forward, self.backward + other.backward)

    @property
    def total(self) -> float:
        return self.forward + self.backward


@dataclass(frozen=True)
class Group:
    """prompt: number of its tokens, including image tokens. responses: tokens of each. grids: (height, width) of each
    image, in patches."""

    prompt: int
    responses: tuple[int, ...]
    grids: tuple[tuple[int, int], ...]

    @property
    def tokens(self) -> int:
        return self.prompt + sum(self.responses)


def products(forward: float) -> Flops:
    """FLOPs of matrix products whose inputs and weights both need a gradient."""
    return Flops(forward, 2 * forward)


def decoder_flops(config: Any, tokens: int, pairs: int, lora_rank: int = 0) -> Flops:
    """FLOPs of all decoder layers for `tokens`, with `pairs` (query, key) in the attention of each layer.

    With N weights in the layers' matrices, a forward takes 2 * N * tokens, and 4 * heads * head_size * pairs * layers
    for scores and weighted values. A causal row of S tokens has S (S + 1) / 2 pairs.

    lora_rank: rank of adapters on all these matrices, if only the adapters are trained; 0: the matrices are trained.
    With M weights in the adapters, the matrices take 4 * N * tokens in all and the adapters 6 * M * tokens, minus the
    gradients of the first layer's inputs: nothing below its queries, keys and values is trained.
    """
    text = config.text_config
    layers = text.num_hidden_layers
    attention = 4 * layers * _query_width(config) * pairs
    frozen, adapters = layers * layer_weights(config), layers * adapter_weights(config, lora_rank)
    if not lora_rank:
        return products(2 * frozen * tokens + attention)
    lowest = text.hidden_size * (_query_width(config) + 2 * _key_width(config) + 3 * lora_rank)
    inputs, weights = frozen + adapters - lowest, adapters
    return Flops(2 * (frozen + adapters) * tokens + attention, 2 * (inputs + weights) * tokens + 2 * attention)


def head_flops(config: Any, scored: int, frozen: bool = False) -> Flops:
    """FLOPs of the logits at `scored` tokens. Example: hidden 2, vocabulary 5, 3 tokens -> forward 60.

    frozen: the head's weight needs no gradient.
    """
    text = config.text_config
    forward = 2 * text.hidden_size * text.vocab_size * scored
    return Flops(forward, forward) if frozen else products(forward)


def vision_flops(config: Any, grid: tuple[int, int]) -> Flops:
    """FLOPs of the vision tower and its merger for one image of grid[0] x grid[1] patches."""
    vision = config.vision_config
    patches, merged = grid[0] * grid[1], grid[0] * grid[1] // vision.spatial_merge_size**2
    num_full = len(vision.fullatt_block_indexes)
    windows = window_pairs(*grid, vision.window_size // vision.patch_size)
    pairs = num_full * patches**2 + (vision.depth - num_full) * windows
    embedding = 2 * _patch_size(config) * vision.hidden_size * patches
    blocks = 2 * vision.depth * block_weights(config) * patches
    return Flops(embedding, embedding) + products(
        blocks + 4 * vision.hidden_size * pairs + 2 * merger_weights(config) * merged
    )


def group_flops(config: Any, groups: Sequence[Group], lora_rank: int = 0) -> dict[str, Flops]:
    """FLOPs of an update over these groups, by part of the model. The images of a group count once.

    lora_rank: rank of adapters on all linear layers of the language model, if only they are trained; 0: all is trained.
    """
    none = Flops(0.0, 0.0)
    parts = {"vision": none, "decoder": none, "head": none}
    for group in groups:
        parts["vision"] = sum((vision_flops(config, grid) for grid in group.grids), parts["vision"])
        pairs = group_pairs(group.prompt, group.responses)
        parts["decoder"] += decoder_flops(config, group.tokens, pairs, lora_rank)
        parts["head"] += head_flops(config, sum(group.responses), frozen=lora_rank > 0)
    if lora_rank:
        parts["vision"] = Flops(parts["vision"].forward, 0.0)
    return parts


def mfu(flops: float, seconds: float, peak_tflops: float, num_gpus: int) -> float:
    """Model FLOPs utilisation, a fraction of the peak. Example: 3e14 FLOPs in 2 s on one GPU of 300 TFLOP/s -> 0.5."""
    return flops / (seconds * peak_tflops * 1e12 * num_gpus)


def peak_tflops(name: str, given: float | None) -> float:
    """`given`, else the number in the table. Raises UnknownGpu if there is neither."""
    if given is not None:
        return given
    if name not in PEAK_TFLOPS:
        raise UnknownGpu(
            f"the peak of this GPU is not known, so no MFU can be given; got {name!r}; give --peak-tflops "
            "(dense bfloat16, without sparsity)"
        )
    return PEAK_TFLOPS[name]


def num_parameters(config: Any) -> int:
    """Number of all weights, biases and norms. Tied embeddings count once. Qwen2.5-VL-3B-Instruct has 3,754,622,976."""
    text, vision = config.text_config, config.vision_config
    hidden, width, keys = text.hidden_size, _query_width(config), _key_width(config)
    layer = layer_weights(config) + width + 2 * keys + 2 * hidden
    embeddings = text.vocab_size * hidden * (1 if config.tie_word_embeddings else 2)
    side, inner = vision.hidden_size, vision.intermediate_size
    block = block_weights(config) + 3 * side + side + 2 * inner + side + 2 * side
    merged = side * vision.spatial_merge_size**2
    merger = merger_weights(config) + merged + vision.out_hidden_size + side
    tower = _patch_size(config) * side + vision.depth * block + merger
    return tower + embeddings + text.num_hidden_layers * layer + hidden


def layer_weights(config: Any) -> int:
    """Number of weights in one decoder layer's matrices: queries, keys, values, output; gate, up and down."""
    text = config.text_config
    attention = text.hidden_size * (2 * _query_width(config) + 2 * _key_width(config))
    return attention + 3 * text.hidden_size * text.intermediate_size


def adapter_weights(config: Any, rank: int) -> int:
    """Number of weights of LoRA adapters on a decoder layer's seven matrices: rank x (inputs + outputs) of each."""
    text = config.text_config
    hidden, queries, keys, inner = text.hidden_size, _query_width(config), _key_width(config), text.intermediate_size
    return rank * (2 * (hidden + queries) + 2 * (hidden + keys) + 3 * (hidden + inner))


def block_weights(config: Any) -> int:
    """Number of weights in one vision block's matrices: queries, keys, values, output; gate, up and down."""
    vision = config.vision_config
    return 4 * vision.hidden_size**2 + 3 * vision.hidden_size * vision.intermediate_size


def merger_weights(config: Any) -> int:
    vision = config.vision_config
    merged = vision.hidden_size * vision.spatial_merge_size**2
    return merged * (merged + vision.out_hidden_size)


def _query_width(config: Any) -> int:
    return config.text_config.num_attention_heads * _head_size(config)


def _key_width(config: Any) -> int:
    return config.text_config.num_key_value_heads * _head_size(config)


def _head_size(config: Any) -> int:
    text = config.text_config
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def _patch_size(config: Any) -> int:
    """Numbers in a patch: colours x frames x side x side."""
    vision = config.vision_config
    return vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
