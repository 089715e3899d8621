"""The estimate of memory in `--dry-run`, by hand."""

from __future__ import annotations

from mars.checks.memory import ModelShape, engine_memory, kv_bytes_per_token, trainer_memory

THREE_B = ModelShape(4_000_000_000, 2048, 36, 2, 128, 151_936)


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
        "activations": 2 * 10_000 * 2048 * 36 + 34 * 10_000 * 2048,
        "logits chunk": 2 * 4 * 1024 * 151_936,
    }
    more = trainer_memory(THREE_B, **(settings | {"gradient_checkpointing": False, "with_reference": True}))
    assert more["reference model"] == 4_000_000_000
    assert more["activations"] == 34 * 10_000 * 2048 * 36
    fewer = trainer_memory(THREE_B, **(settings | {"num_trained": 1_000_000_000}))
    assert (fewer["parameters"], fewer["gradients"], fewer["optimizer states"]) == (
        4_000_000_000, 1_000_000_000, 2_000_000_000,
    )  # fmt: skip
    wider = trainer_memory(THREE_B, **(settings | {"dtype": "float32"}))
    assert wider["activations"] == 2 * (2 * 10_000 * 2048 * 36 + 34 * 10_000 * 2048)
    assert wider["parameters"] == 4_000_000_000  # kept in float32 either way


def test_memory_of_an_engine_by_hand():
    assert kv_bytes_per_token(THREE_B, "bfloat16") == 2 * 36 * 2 * 128 * 2 == 36_864
    found = engine_memory(THREE_B, tensor_parallel_size=2, dtype="bfloat16", max_num_seqs=8, max_model_len=1000)
    assert found == {"parameters": 4_000_000_000, "KV cache": 36_864 * 8000 // 2}
