"""Estimate the memory of each worker from the model's files, before anything is loaded (docs/where_it_runs.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mars.checks.weights import model_headers
from mars.errors import SetupError
from mars.families.table import family_of

DTYPE_BYTES = {"float32": 4, "bfloat16": 2}
# Logits of a chunk in float32, and their exponentials (mars/actor/token_scores.py).
LOGITS_COPIES = 2
SHARDED = ("parameters", "gradients", "optimizer states", "reference model")
# Tokens of a chunk of transformers' torch_chunk_gated_delta_rule.
LINEAR_CHUNK = 64


@dataclass(frozen=True)
class ModelShape:
    """Sizes of the model.

    num_parameters: of the whole model, including the vision tower. The other fields describe the language model.
    intermediate_size: width of its gated MLPs.
    num_linear_layers: number of layers with linear attention, which have a state instead of a KV cache.
    linear_sizes: number of value heads, size of a key head and size of a value head of such a layer.
    """

    num_parameters: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    num_linear_layers: int = 0
    linear_sizes: tuple[int, int, int] = (0, 0, 0)

    @property
    def linear_state(self) -> int:
        """How many numbers the state of one sequence has in one layer with linear attention."""
        return math.prod(self.linear_sizes)


def read_shape(config: Mapping[str, Any], folder: Path) -> ModelShape:
    """Read the sizes from config.json and the headers of the *.safetensors in `folder`.

    Raises SetupError if one of these files is malformed, or config.json lacks a size.
    """
    text = {**config, **(config.get("text_config") or {})}
    parts = family_of(config.get("model_type"), f"model.path: {folder / 'config.json'}").parts
    try:
        heads, hidden = int(text["num_attention_heads"]), int(text["hidden_size"])
        return ModelShape(
            num_parameters=sum(math.prod(tensor.shape) for tensor in model_headers(folder, parts.not_loaded).values()),
            hidden_size=hidden,
            intermediate_size=int(text["intermediate_size"]),
            num_layers=int(text["num_hidden_layers"]),
            num_heads=heads,
            num_kv_heads=int(text.get("num_key_value_heads") or heads),
            head_dim=int(text.get("head_dim") or hidden // heads),
            vocab_size=int(text["vocab_size"]),
            num_linear_layers=(text.get("layer_types") or []).count("linear_attention"),
            linear_sizes=(
                int(text.get("linear_num_value_heads") or 0),
                int(text.get("linear_key_head_dim") or 0),
                int(text.get("linear_value_head_dim") or 0),
            ),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SetupError(f"model.path: a size in config.json of {folder} is missing or wrong: {error}") from error


def activation_bytes(hidden: int, queries: int, keys: int, intermediate: int) -> int:
    """Bytes that a layer keeps of each token for its backward if it computes in 16 bits. Attention scores are not kept.

    Arguments: the widths of the layer, of all its queries, of all its keys, and of its gated MLP. Kept are
    - for each of two RMS norms 8 x hidden: input and output in 16 bits, and the input in 32 bits;
    - for attention 4 x (queries + keys): queries, keys, values and output in 16 bits;
    - for the norms of queries and keys 6 x (queries + keys). In a model without these norms this is too much;
    - for the MLP 8 x intermediate: gate projection before and after its activation, up projection, and product.
    Measured in tests/integration/checks/test_activation_memory.py.
    Example: hidden 2, queries 2, keys 1, intermediate 6 -> 32 + 30 + 48 = 110.
    """
    return 16 * hidden + 10 * (queries + keys) + 8 * intermediate


def trainer_memory(
    shape: ModelShape,
    *,
    num_trained: int,
    num_ranks: int,
    dtype: str,
    tokens_per_forward: int,
    logprob_chunk_tokens: int,
    gradient_checkpointing: bool,
    with_reference: bool,
) -> dict[str, int]:
    """Bytes of one rank, by purpose. P parameters, N of them trained, R ranks that share a copy, T tokens per forward,
    hidden size H, L layers. What `SHARDED` names is in CPU memory with `actor.offload=cpu`.

    - parameters 4 P / R, gradients 4 N / R, optimizer states 8 N / R (AdamW's two moments): float32, sharded;
    - reference model 4 P / R, if there is one;
    - activations in 16 bits: with checkpointing 2 T H for the input of each layer and T times `activation_bytes` for
      one layer; without it T times `activation_bytes` for each layer;
    - linear attention: `_linear_attention` of one layer with checkpointing, else of all;
    - logits chunk: 2 copies of chunk x vocabulary in float32.

    Example: P = N = 10^9, R = 4: 10^9 bytes of parameters, 10^9 of gradients, 2 * 10^9 of optimizer states.
    """
    size = DTYPE_BYTES[dtype]
    shard = -(-shape.num_parameters // num_ranks)
    trained = -(-num_trained // num_ranks)
    widths = shape.head_dim * shape.num_heads, shape.head_dim * shape.num_kv_heads
    layer = activation_bytes(shape.hidden_size, *widths, shape.intermediate_size) * size // 2 * tokens_per_forward
    inputs = size * tokens_per_forward * shape.hidden_size * shape.num_layers
    found = {
        "parameters": 4 * shard,
        "gradients": 4 * trained,
        "optimizer states": 8 * trained,
        "reference model": 4 * shard if with_reference else 0,
        "activations": inputs + layer if gradient_checkpointing else layer * shape.num_layers,
        "linear attention": _linear_attention(shape, tokens_per_forward, 1 if gradient_checkpointing else None),
        "logits chunk": LOGITS_COPIES * 4 * logprob_chunk_tokens * shape.vocab_size,
    }
    return {name: count for name, count in found.items() if count}


def _linear_attention(shape: ModelShape, tokens: int, num_layers: int | None) -> int:
    """Bytes that the kernel of linear attention needs for `num_layers` layers at once (None: for all such layers).

    The kernel in torch works in float32. For each token and value head, with keys of K numbers, values of V numbers and
    chunks of C = 64 tokens, it keeps 8 K + 3 V + 5 C + K V / C numbers for backward. While backward computes a layer's
    gradients, that layer has 15 K + 7 V + 8 C numbers in all.
    tests/integration/checks/test_linear_memory.py measures both.
    The estimate leaves out the padding of each sequence to whole chunks, which is small for long sequences.
    """
    heads, key, value = shape.linear_sizes
    kept = 8 * key + 3 * value + 5 * LINEAR_CHUNK + key * value // LINEAR_CHUNK
    backward = 15 * key + 7 * value + 8 * LINEAR_CHUNK
    layers = min(shape.num_linear_layers, num_layers or shape.num_linear_layers)
    return 4 * heads * tokens * (kept * (layers - 1) + backward) if layers else 0


def engine_memory(
    shape: ModelShape, *, tensor_parallel_size: int, dtype: str, max_num_seqs: int, max_model_len: int
) -> dict[str, int]:
    """Bytes on one GPU of an engine: the weights, and the KV cache of max_num_seqs sequences of maximal length.

    KV cache per token: 2 (keys and values) x layers with full attention x KV heads x head size x bytes per number.
    Layers with linear attention instead have a state in float32 for each sequence, of the same size for any length.
    With less memory the engine runs fewer sequences at once.
    Example: 36 layers, 2 KV heads of 128 in bfloat16: 36,864 bytes per token.
    """
    states = 4 * shape.linear_state * shape.num_linear_layers * max_num_seqs // tensor_parallel_size
    found = {
        "parameters": -(-shape.num_parameters * DTYPE_BYTES[dtype] // tensor_parallel_size),
        "KV cache": kv_bytes_per_token(shape, dtype) * max_num_seqs * max_model_len // tensor_parallel_size,
        "states of linear attention": states,
    }
    return {name: count for name, count in found.items() if count}


def kv_bytes_per_token(shape: ModelShape, dtype: str) -> int:
    return 2 * (shape.num_layers - shape.num_linear_layers) * shape.num_kv_heads * shape.head_dim * DTYPE_BYTES[dtype]
