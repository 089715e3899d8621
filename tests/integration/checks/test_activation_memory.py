"""What a decoder layer keeps for its backward, by the tensors that autograd saves: the dry run's formula."""

from __future__ import annotations

import pytest
import torch
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen2_5
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen3
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig

from mars.checks.memory import activation_bytes

TOKENS, HIDDEN, HEAD = 64, 256, 128


def saved_bytes(layer, rotary):
    """Of each token, without the tables of rotary embedding, which all layers share."""
    hidden = torch.randn(1, TOKENS, HIDDEN, dtype=torch.bfloat16, requires_grad=True)
    positions = torch.arange(TOKENS).view(1, 1, -1).expand(3, 1, -1)
    tables = rotary(hidden, positions)
    shared = {x.untyped_storage().data_ptr() for x in (*layer.parameters(), *tables)}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in shared:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(hidden, attention_mask=None, position_ids=positions[0], position_embeddings=tables)
    return sum(storage.nbytes() for storage in kept.values()) / TOKENS


@pytest.mark.parametrize(("heads", "kv_heads", "mlp"), [(2, 1, 1376), (2, 2, 512), (6, 2, 256)])
def test_a_layer_keeps_what_the_formula_counts(heads, kv_heads, mlp):
    sizes = {
        "hidden_size": HIDDEN, "intermediate_size": mlp, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
        "num_hidden_layers": 1, "vocab_size": 8, "attn_implementation": "sdpa",
    }  # fmt: skip
    config = Qwen3VLTextConfig(head_dim=HEAD, **sizes)
    layer = qwen3.Qwen3VLTextDecoderLayer(config, 0).bfloat16()
    wanted = activation_bytes(HIDDEN, heads * HEAD, kv_heads * HEAD, mlp)
    assert saved_bytes(layer, qwen3.Qwen3VLTextRotaryEmbedding(config)) == pytest.approx(wanted, rel=0.02)


def test_a_layer_without_norms_of_queries_and_keys_keeps_less():
    rope = {"rope_type": "default", "mrope_section": [16, 24, 24], "rope_theta": 1e6}
    config = Qwen2_5_VLTextConfig(
        hidden_size=HIDDEN, intermediate_size=1376, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=1,
        vocab_size=8, rope_parameters=rope, attn_implementation="sdpa",
    )  # fmt: skip
    layer = qwen2_5.Qwen2_5_VLDecoderLayer(config, 0).bfloat16()
    wanted = activation_bytes(HIDDEN, 2 * HEAD, HEAD, 1376) - 6 * (2 * HEAD + HEAD)
    assert saved_bytes(layer, qwen2_5.Qwen2_5_VLRotaryEmbedding(config)) == pytest.approx(wanted, rel=0.02)
