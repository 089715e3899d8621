"""Qwen3-VL."""

from __future__ import annotations

from mars.families.family import Family, ModelParts
from mars.families.qwen_vl import IMAGE_SETTINGS, LANGUAGE, SIZING_KEYS, TIED, MropeForward, read_sizing

QWEN3_VL = Family(
    model_type="qwen3_vl",
    name="Qwen3-VL",
    language_types=(),
    box_space="norm_1000",
    media_tokens=(),
    image_start=(),  # <|vision_start|> and <|vision_end|> are the chat template's
    image_end=(),
    sizing_keys=SIZING_KEYS,
    read_sizing=read_sizing,
    image_settings=IMAGE_SETTINGS,
    forward=MropeForward(),
    parts=ModelParts(
        vision=("model.visual",),
        projector=("model.visual.merger", "model.visual.deepstack_merger_list"),
        language=LANGUAGE,
        tied=TIED,
        layer_classes=frozenset({"Qwen3VLTextDecoderLayer", "Qwen3VLVisionBlock"}),
        patch_embedding="model.visual.patch_embed.proj",
        vision_segments=True,
    ),
)
