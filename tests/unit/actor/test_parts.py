from __future__ import annotations

import pytest

from mars.actor.parts import check_freeze, part_of
from mars.errors import ConfigError


@pytest.mark.parametrize("prefix", ["", "model."])  # in older files, and in the model
@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("visual.patch_embed.proj.weight", "vision"),
        ("visual.pos_embed.weight", "vision"),
        ("visual.blocks.31.mlp.down_proj.bias", "vision"),
        ("visual.merger.mlp.2.weight", "projector"),
        ("language_model.layers.0.self_attn.q_proj.weight", "language"),
        ("layers.0.mlp.visual_gate.weight", "language"),
    ],
)
def test_parts_by_name(prefix, name, part):
    assert part_of(prefix + name, "qwen2_5_vl") == part_of(prefix + name, "qwen3_vl") == part


def test_the_head_is_language_and_deepstack_is_a_projector():
    assert part_of("lm_head.weight", "qwen2_5_vl") == "language"
    assert part_of("model.visual.deepstack_merger_list.0.norm.weight", "qwen3_vl") == "projector"


def test_a_family_without_a_table_is_refused():
    check_freeze("qwen3_vl", ["vision"])
    check_freeze("llava", [])
    with pytest.raises(
        ConfigError, match=r"actor\.freeze: .* of type llava .*qwen2_5_vl.*; got \['vision'\]; give \[\]"
    ):
        check_freeze("llava", ["vision"])
