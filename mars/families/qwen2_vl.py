"""Qwen2-VL."""

from __future__ import annotations

from dataclasses import replace

from mars.families.qwen_vl import QWEN_VL

QWEN2_VL = replace(
    QWEN_VL,
    model_type="qwen2_vl",
    name="Qwen2-VL",
    box_space="norm_1000",
    parts=replace(QWEN_VL.parts, layer_classes=frozenset({"Qwen2VLDecoderLayer", "Qwen2VLVisionBlock"})),
)
