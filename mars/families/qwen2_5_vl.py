"""Qwen2.5-VL."""

from __future__ import annotations

from dataclasses import replace

from mars.families.qwen_vl import QWEN_VL

QWEN2_5_VL = replace(
    QWEN_VL,
    model_type="qwen2_5_vl",
    name="Qwen2.5-VL",
    box_space="resized_pixels",
    parts=replace(QWEN_VL.parts, layer_classes=frozenset({"Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock"})),
)
