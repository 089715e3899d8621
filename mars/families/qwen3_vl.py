"""Qwen3-VL."""

from __future__ import annotations

from dataclasses import replace

from mars.families.qwen_vl import QWEN_VL

QWEN3_VL = replace(
    QWEN_VL,
    model_type="qwen3_vl",
    name="Qwen3-VL",
    box_space="norm_1000",
    parts=replace(
        QWEN_VL.parts,
        projector=("model.visual.merger", "model.visual.deepstack_merger_list"),
        layer_classes=frozenset({"Qwen3VLTextDecoderLayer", "Qwen3VLVisionBlock"}),
    ),
)
