"""Linear attention over packs: each response starts from the state at the end of its prompt.

A gated delta rule (Yang et al. 2024, arXiv 2412.06464) keeps no keys and values. Of the tokens before, a token needs
only the state (one matrix for each head) and the last inputs of a short convolution.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from mars.actor.prefix_attention import SharedPrefixLayout


def use_shared_prefix(layer: nn.Module) -> None:
    """Replace the forward of a loaded model's layer (a Qwen3_5GatedDeltaNet of transformers) by one for packs."""
    layer.forward = partial(pack_forward, layer)


def pack_forward(
    layer: Any,
    hidden_states: Tensor,
    *,
    shared_prefix: SharedPrefixLayout,
    cache_params: Any = None,
    attention_mask: Tensor | None = None,
    **kwargs: Any,
) -> Tensor:
    """hidden_states [1, N, hidden size] -> the same shape.

    Raises NotImplementedError for a cache or a mask, which a pack cannot have.
    """
    if cache_params is not None or attention_mask is not None:
        raise NotImplementedError("shared-prefix packing supports no cache and no mask in linear attention")
    mixed = layer.in_proj_qkv(hidden_states)
    beta = layer.in_proj_b(hidden_states).sigmoid()
    # In float32, as in transformers, because in 16 bits exp(A_log) may be infinite.
    decay = -layer.A_log.float().exp() * softplus(layer.in_proj_a(hidden_states).float() + layer.dt_bias)
    attended = _scan_pack(layer, (mixed[0], decay[0], beta[0]), shared_prefix)
    gate = layer.in_proj_z(hidden_states).view(-1, layer.head_v_dim)
    normed = layer.norm(attended.reshape(-1, layer.head_v_dim), gate)
    return layer.out_proj(normed.view(*hidden_states.shape[:2], -1))


def _scan_pack(layer: Any, inputs: tuple[Tensor, ...], layout: SharedPrefixLayout) -> Tensor:
    """inputs: three tensors. The first holds queries, keys and values before the convolution, side by side: [N, C]. The
    others are decay and beta, [N, heads] each.

    Returns [N, heads, D].
    """
    outputs = []
    parts = zip(*(x.split(layout.sizes) for x in inputs), strict=True)
    for group, prompt, responses in zip(layout.groups, parts, parts, strict=False):
        start = prompt[0].new_zeros(1, layer.conv_kernel_size - 1, prompt[0].shape[-1])
        attended, state, end = _scan(layer, [x.unsqueeze(0) for x in prompt], start, None)
        outputs.append(attended[0])
        padded = []
        for batch in group.padded:
            rows = [x.index_select(0, batch.tokens).unflatten(0, (batch.count, -1)) for x in responses]
            copies = (x.expand(batch.count, *x.shape[1:]) for x in (end, state))
            padded.append(_scan(layer, rows, *copies)[0].flatten(0, 1))
        if padded:
            outputs.append(torch.cat(padded).index_select(0, group.kept))
    return torch.cat(outputs)


def _scan(layer: Any, inputs: list[Tensor], before: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Scan B sequences of L tokens each.

    inputs: [B, L, C], [B, L, heads] and [B, L, heads], as in `_scan_pack`. before: the last inputs of the convolution
    before the first token, [B, kernel - 1, C]. state: float32 [B, heads, key size, value size]; None for zeros.
    Returns the output [B, L, heads, D], and `state` and `before` for a call that continues the sequences.
    """
    from transformers.models.qwen3_5.modeling_qwen3_5 import causal_conv1d_fn, torch_chunk_gated_delta_rule

    mixed, decay, beta = inputs
    mixed = torch.cat([before, mixed], dim=1)
    convolved = causal_conv1d_fn(
        mixed.transpose(1, 2), layer.conv1d.weight.squeeze(1), layer.conv1d.bias, activation=layer.activation
    )
    convolved = convolved.transpose(1, 2)[:, before.shape[1] :]
    sizes = (layer.key_dim, layer.key_dim, layer.value_dim)
    query, key, value = (x.unflatten(-1, (-1, n)) for x, n in zip(
        convolved.split(sizes, dim=-1), (layer.head_k_dim, layer.head_k_dim, layer.head_v_dim), strict=True
    ))  # fmt: skip
    shared = layer.num_v_heads // layer.num_k_heads
    attended, state = torch_chunk_gated_delta_rule(
        query.repeat_interleave(shared, dim=2), key.repeat_interleave(shared, dim=2), value, g=decay, beta=beta,
        initial_state=state, output_final_state=True, use_qk_l2norm_in_kernel=True,
    )  # fmt: skip
    return attended, state, mixed[:, mixed.shape[1] - before.shape[1] :]
