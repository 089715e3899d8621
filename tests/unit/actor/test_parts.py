from __future__ import annotations

import pytest

from mars.actor.parts import part_of
from mars.families.internvl import INTERNVL
from mars.families.qwen2_5_vl import QWEN2_5_VL
from mars.families.qwen3_vl import QWEN3_VL


@pytest.mark.parametrize("prefix", ["", "model."])  # in older files, and in the model
@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("visual.patch_embed.proj.weight", "vision"),
        ("visual.pos_embed.weight", "vision"),
        ("visual.blocks.31.mlp.down_proj.bias", "vision"),
        ("visual.merger.mlp.2.weight", "projector"),
        ("visual.merger", "projector"),
        ("visual.merger_of_something_else.weight", "vision"),
        ("language_model.layers.0.self_attn.q_proj.weight", "language"),
        ("layers.0.mlp.visual_gate.weight", "language"),
    ],
)
def test_parts_by_name(prefix, name, part):
    assert part_of(prefix + name, QWEN2_5_VL.parts) == part_of(prefix + name, QWEN3_VL.parts) == part


def test_the_head_is_language_and_deepstack_is_a_projector():
    assert part_of("lm_head.weight", QWEN2_5_VL.parts) == "language"
    assert part_of("model.visual.deepstack_merger_list.0.norm.weight", QWEN3_VL.parts) == "projector"
    assert part_of("model.visual.deepstack_merger_list.0.norm.weight", QWEN2_5_VL.parts) == "vision"


def test_a_projector_beside_the_tower():
    assert part_of("model.multi_modal_projector.linear_1.weight", INTERNVL.parts) == "projector"
    assert part_of("model.vision_tower.encoder.layer.0.attention.q_proj.weight", INTERNVL.parts) == "vision"
