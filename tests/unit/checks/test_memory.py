"""The estimate of memory in `--dry-run`, by hand."""

from __future__ import annotations

import struct

from mars.checks.memory import ModelShape, engine_memory, kv_bytes_per_token, read_shape, trainer_memory

THREE_B = ModelShape(4_000_000_000, 2048, 11_008, 36, 16, 2, 128, 151_936)
# Bytes that a layer of it keeps of a token: 16 x 2048 + 10 x (2048 + 256) + 8 x 11,008.
KEPT = 143_872


def test_memory_of_a_rank_by_hand():
    settings = {
        "num_trained": 4_000_000_000,
        "num_ranks": 4, "dtype": "bfloat16", "tokens_per_forward": 10_000, "logprob_chunk_tokens": 1024,
        "gradient_checkpointing": True, "with_reference": False,
    }  # fmt: skip
    assert trainer_memory(THREE_B, **settings) == {
        "parameters": 4_000_000_000,
        "gradients": 4_000_000_000,
        "optimizer states": 8_000_000_000,
        "activations": 2 * 10_000 * 2048 * 36 + 10_000 * KEPT,
        "logits chunk": 2 * 4 * 1024 * 151_936,
    }
    more = trainer_memory(THREE_B, **(settings | {"gradient_checkpointing": False, "with_reference": True}))
    assert more["reference model"] == 4_000_000_000
    assert more["activations"] == 10_000 * KEPT * 36
    fewer = trainer_memory(THREE_B, **(settings | {"num_trained": 1_000_000_000}))
    assert (fewer["parameters"], fewer["gradients"], fewer["optimizer states"]) == (
        4_000_000_000, 1_000_000_000, 2_000_000_000,
    )  # fmt: skip
    wider = trainer_memory(THREE_B, **(settings | {"dtype": "float32"}))
    assert wider["activations"] == 2 * (2 * 10_000 * 2048 * 36 + 10_000 * KEPT)
    assert wider["parameters"] == 4_000_000_000  # kept in float32 either way


def test_memory_of_an_engine_by_hand():
    assert kv_bytes_per_token(THREE_B, "bfloat16") == 2 * 36 * 2 * 128 * 2 == 36_864
    found = engine_memory(THREE_B, tensor_parallel_size=2, dtype="bfloat16", max_num_seqs=8, max_model_len=1000)
    assert found == {"parameters": 4_000_000_000, "KV cache": 36_864 * 8000 // 2}


def test_layers_with_linear_attention_have_a_state_for_a_sequence_and_no_kv_cache(tmp_path):
    """Of Qwen3.5's sizes: 2 of 3 layers are linear, with 4 value heads of 8 x 16 numbers."""
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    text = {
        "num_attention_heads": 2, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
        "num_key_value_heads": 1, "head_dim": 32,
        "vocab_size": 100, "layer_types": ["linear_attention", "linear_attention", "full_attention"],
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 16,
    }  # fmt: skip
    shape = read_shape({"model_type": "qwen3_5", "text_config": text}, tmp_path)
    assert (shape.num_linear_layers, shape.linear_sizes, shape.linear_state) == (2, (4, 8, 16), 512)
    assert kv_bytes_per_token(shape, "bfloat16") == 2 * 1 * 1 * 32 * 2
    found = engine_memory(shape, tensor_parallel_size=2, dtype="bfloat16", max_num_seqs=10, max_model_len=100)
    kept, backward = 8 * 8 + 3 * 16 + 5 * 64 + 8 * 16 // 64, 15 * 8 + 7 * 16 + 8 * 64
    settings = {
        "num_trained": 0, "num_ranks": 1, "dtype": "bfloat16", "tokens_per_forward": 1000, "logprob_chunk_tokens": 1,
        "with_reference": False,
    }  # fmt: skip
    one = trainer_memory(shape, gradient_checkpointing=True, **settings)
    every = trainer_memory(shape, gradient_checkpointing=False, **settings)
    assert one["linear attention"] == 4 * 4 * 1000 * backward
    assert every["linear attention"] == 4 * 4 * 1000 * (kept + backward)
    assert found == {"KV cache": 128 * 1000 // 2, "states of linear attention": 4 * 512 * 2 * 10 // 2}


def test_the_vocabulary_of_a_resized_model_is_that_of_its_text_config(tmp_path):
    header = b'{"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}'
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(24))
    sizes = {"num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = {"model_type": "qwen2_5_vl", "vocab_size": 99, "text_config": {**sizes, "vocab_size": 6}}
    assert read_shape(config, tmp_path).vocab_size == 6
