"""The parts of a tiny model that differ between families: processor, chat template, configuration."""

from __future__ import annotations

from typing import Any, Literal

Family = Literal["qwen2_5_vl", "qwen3_vl", "qwen3_5", "qwen2_vl", "internvl"]

VOCAB_MULTIPLE = 64  # the model's vocabulary is padded to the next multiple, as real models do
REAL_IDS = 151_936  # rows of Qwen2.5-VL's embedding
MAX_POSITIONS = 32_768
HIDDEN, HEAD = 96, 32  # 32 is the smallest head of vLLM's attention kernels
# M-RoPE gives the width of an image the longest wavelengths. With the usual base of 10,000 they are hundreds of tokens,
# and neighbours in an image of 2 x 2 tokens look the same; with 10 the longest is 54 tokens.
ROPE_THETA = 10.0
MIN_PIXELS, MAX_PIXELS = 28 * 28, 224 * 224
TILE = 56  # side of InternVL's tiles in pixels: 4 tokens

# Tokens of InternVL by the names under which its processor looks for them.
INTERNVL_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}

CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {%- if loop.first and message['role'] != 'system' -%}
        {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
    {%- endif -%}
    {{- '<|im_start|>' + message['role'] + '\\n' -}}
    {%- if message['content'] is string -%}
        {{- message['content'] -}}
    {%- else -%}
        {%- for part in message['content'] -%}
            {%- if part['type'] == 'image' or 'image' in part or 'image_url' in part -%}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
            {%- elif part['type'] == 'video' or 'video' in part -%}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
            {%- elif 'text' in part -%}
                {{- part['text'] -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""

# As in Qwen3.5: the prompt ends with a thought that the model is to go on with, or with an empty one.
THINKING = """\
    {%- if enable_thinking is defined and enable_thinking is false -%}
        {{- '<think>\\n\\n</think>\\n\\n' -}}
    {%- else -%}
        {{- '<think>\\n' -}}
    {%- endif -%}
{%- endif -%}
"""


def build_processor(family: Family, tokenizer: Any) -> Any:
    """The family's own processor class around `tokenizer`. Images: smart_resize between MIN_PIXELS and MAX_PIXELS;
    for InternVL, tiles with at most MAX_PIXELS together.
    """
    from transformers import (
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    if family == "internvl":
        return _internvl_processor(tokenizer)
    limits = {"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS}
    if family in ("qwen3_vl", "qwen3_5"):
        images = Qwen2VLImageProcessor(size=limits, patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3)
        template = CHAT_TEMPLATE if family == "qwen3_vl" else CHAT_TEMPLATE.removesuffix("{%- endif -%}\n") + THINKING
        return Qwen3VLProcessor(images, tokenizer, Qwen3VLVideoProcessor(), chat_template=template)
    images = Qwen2VLImageProcessor(size=limits)
    if family == "qwen2_vl":
        return Qwen2VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(), chat_template=CHAT_TEMPLATE)
    return Qwen2_5_VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(), chat_template=CHAT_TEMPLATE)


def _internvl_processor(tokenizer: Any) -> Any:
    from transformers import GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor

    images = GotOcr2ImageProcessor(
        size={"height": TILE, "width": TILE},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        max_patches=MAX_PIXELS // TILE**2,
    )
    template = CHAT_TEMPLATE
    for part, token in (("image", "<IMG_CONTEXT>"), ("video", "<video>")):
        template = template.replace(f"<|vision_start|><|{part}_pad|><|vision_end|>", f"{token}\\n")
    video = InternVLVideoProcessor(size={"height": TILE, "width": TILE})
    return InternVLProcessor(images, tokenizer, video, image_seq_length=4, chat_template=template)


def build_config(family: Family, tokenizer: Any, *, tie_word_embeddings: bool) -> Any:
    """Config of a model for `tokenizer`: about 1 million parameters, or with 151,936 ids 15 (tied) or 30 million."""
    from transformers import Qwen2_5_VLConfig, Qwen2VLConfig, Qwen3VLConfig

    vocab_size = len(tokenizer)
    if vocab_size < REAL_IDS:
        vocab_size = (vocab_size // VOCAB_MULTIPLE + 1) * VOCAB_MULTIPLE
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in {
            "image": "image_pad",
            "video": "video_pad",
            "vision_start": "vision_start",
            "vision_end": "vision_end",
        }.items()
    }
    text = {
        "vocab_size": vocab_size,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 3,
        "num_attention_heads": HIDDEN // HEAD,
        "num_key_value_heads": 1,
        "max_position_embeddings": MAX_POSITIONS,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": tie_word_embeddings,
    }
    vision = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": HIDDEN}
    rope = {"rope_type": "default", "rope_theta": ROPE_THETA}
    if family == "internvl":
        return _internvl_config(tokenizer, text, tie_word_embeddings=tie_word_embeddings)
    if family == "qwen3_vl":
        return Qwen3VLConfig(
            text_config={
                **text,
                "head_dim": HEAD,
                "rope_parameters": {**rope, "mrope_section": [6, 5, 5], "mrope_interleaved": True},
            },
            vision_config={**vision, "num_position_embeddings": 16 * 16, "deepstack_visual_indexes": [0]},
            tie_word_embeddings=tie_word_embeddings,
            **ids,
        )
    if family == "qwen3_5":
        return _qwen3_5_config(text, vision, ids, tie_word_embeddings=tie_word_embeddings)
    if family == "qwen2_vl":
        return Qwen2VLConfig(
            text_config={**text, "rope_parameters": {**rope, "mrope_section": [4, 6, 6]}},
            vision_config={"depth": 2, "embed_dim": 64, "mlp_ratio": 2, "num_heads": 2, "hidden_size": HIDDEN},
            tie_word_embeddings=tie_word_embeddings,
            **ids,
        )
    return Qwen2_5_VLConfig(
        text_config={**text, "rope_parameters": {**rope, "mrope_section": [4, 6, 6]}},
        vision_config={**vision, "window_size": 112, "fullatt_block_indexes": [1]},
        tie_word_embeddings=tie_word_embeddings,
        **ids,
    )


def _qwen3_5_config(
    text: dict[str, Any], vision: dict[str, Any], ids: dict[str, int], *, tie_word_embeddings: bool
) -> Any:
    """Two layers of linear attention with twice as many value heads as key heads, then one of full attention."""
    from transformers import Qwen3_5Config

    return Qwen3_5Config(
        text_config={
            **text,
            "head_dim": HEAD,
            "full_attention_interval": 3,
            "linear_key_head_dim": HEAD,
            "linear_value_head_dim": HEAD,
            "linear_num_key_heads": 1,
            "linear_num_value_heads": 2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": ROPE_THETA,
                "partial_rotary_factor": 0.5,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
        },
        vision_config={**vision, "num_position_embeddings": 16 * 16},
        tie_word_embeddings=tie_word_embeddings,
        **ids,
    )


def _internvl_config(tokenizer: Any, text: dict[str, Any], *, tie_word_embeddings: bool) -> Any:
    from transformers import InternVLConfig

    return InternVLConfig(
        text_config={
            "model_type": "qwen2",
            **text,
            "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA},
        },
        vision_config={
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 128,
            "image_size": [TILE, TILE],
            "patch_size": [14, 14],
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=tie_word_embeddings,
    )
