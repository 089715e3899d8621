"""Qwen2.5-VL."""

from __future__ import annotations

from mars.families.family import Family, ModelParts
from mars.families.qwen_vl import IMAGE_SETTINGS, LANGUAGE, SIZING_KEYS, TIED, MropeForward, read_sizing

QWEN2_5_VL = Family(
    model_type="qwen2_5_vl",
    name="Qwen2.5-VL",
    language_types=(),
    box_space="resized_pixels",
    media_tokens=(),
    image_start=(),  # <|vision_start|> and <|vision_end|> are the chat template's
    image_end=(),
    sizing_keys=SIZING_KEYS,
    read_sizing=read_sizing,
    image_settings=IMAGE_SETTINGS,
    forward=MropeForward(),
    parts=ModelParts(
        vision=("model.visual",),
        projector=("model.visual.merger",),
        language=LANGUAGE,
        tied=TIED,
        layer_classes=frozenset({"Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock"}),
        patch_embedding="model.visual.patch_embed.proj",
        vision_segments=True,
    ),
)
