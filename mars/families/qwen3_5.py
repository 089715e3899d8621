"""Qwen3.5: images as in Qwen3-VL, without deepstack; most layers of the language model are linear attention."""

from __future__ import annotations

from dataclasses import replace

from mars.families.qwen_vl import QWEN_VL

QWEN3_5 = replace(
    QWEN_VL,
    model_type="qwen3_5",
    name="Qwen3.5",
    box_space="norm_1000",
    tokenizer_class="Qwen3_5Tokenizer",
    # The prompt ends with an empty thought, so that responses write <think> and </think> as in other families.
    template_arguments={"enable_thinking": False},
    vllm_on_cpu=False,  # its kernels for linear attention take bfloat16 alone
    parts=replace(
        QWEN_VL.parts,
        layer_classes=frozenset({"Qwen3_5DecoderLayer", "Qwen3_5VisionBlock"}),
        linear_attention=frozenset({"Qwen3_5GatedDeltaNet"}),
        not_loaded=("mtp.",),  # layers that predict several tokens at once, for speculative decoding
    ),
)
