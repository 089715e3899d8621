from __future__ import annotations

import pytest
import torch
from torch import nn

from mars.actor.lora import bit_sum, make_adapter, merged
from mars.actor.parts import adapter_layers
from mars.config.actor_sections import LoraConfig
from mars.errors import ConfigError
from mars.families.qwen2_5_vl import QWEN2_5_VL

LAYERS = [
    "model.visual.blocks.0.attn.qkv",
    "model.visual.blocks.0.mlp.gate_proj",
    "model.visual.merger.mlp.0",
    "model.language_model.layers.0.self_attn.q_proj",
    "model.language_model.layers.0.mlp.gate_proj",
    "lm_head",
]


def settings(**changes):
    values = {"rank": 1, "alpha": 2.0, "rank_stabilized": False, "parts": ["language"], "targets": ["all-linear"]}
    return LoraConfig(**values | changes)


def adapted(layer, **changes):
    make_adapter(layer, settings(**changes), torch.Generator().manual_seed(0))
    return layer


def test_output_and_merged_weight_by_hand():
    """W = [1 2], b = 10, A = [3 4], B = [5], s = 2: W + s B A = [31 42], and x = (1, 1) gives 31 + 42 + 10."""
    layer = adapted(nn.Linear(2, 1))
    with torch.no_grad():
        for tensor, values in (
            (layer.weight, [[1, 2]]), (layer.bias, [10]), (layer.lora_A, [[3, 4]]), (layer.lora_B, [[5]])
        ):  # fmt: skip
            tensor.copy_(torch.tensor(values))
    x = torch.ones(1, 2)
    assert layer(x).tolist() == [[83]]
    assert merged(layer.weight, layer.lora_A, layer.lora_B, layer.scale).tolist() == [[31, 42]]
    layer.with_adapter = False
    assert layer(x).tolist() == [[13]]


@pytest.mark.parametrize(("rank_stabilized", "scale"), [(False, 32 / 16), (True, 32 / 4)])
def test_the_scale(rank_stabilized, scale):
    assert adapted(nn.Linear(2, 1), rank=16, alpha=32.0, rank_stabilized=rank_stabilized).scale == scale


def test_a_new_adapter_changes_nothing_and_can_learn():
    layer, x = nn.Linear(25, 3), torch.randn(4, 25)
    before = layer(x)
    adapted(layer, rank=8)
    assert torch.equal(layer(x), before)
    assert (layer.lora_A.shape, layer.lora_B.shape) == ((8, 25), (3, 8))
    assert 0.15 < layer.lora_A.abs().max() <= 1 / 5
    assert torch.equal(layer.lora_A, adapted(nn.Linear(25, 3), rank=8).lora_A)
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias", "lora_A", "lora_B"]


def test_merging_rounds_once():
    """1 + 2^-24 + 2^-24 is 1 if it is rounded after each addition."""
    weight, half = torch.ones(1, 1), torch.tensor([[2.0**-24]])
    assert float(merged(weight, torch.cat([half, half]), torch.ones(1, 2), 1.0)) == 1 + 2**-23


@pytest.mark.parametrize(
    ("parts", "targets", "chosen"),
    [
        (["language"], ["all-linear"], [3, 4]),
        (["vision"], ["all-linear"], [0, 1]),
        (["projector", "language"], ["all-linear"], [2, 3, 4]),
        (["language"], ["gate_proj"], [4]),
        (["vision", "language"], ["gate_proj", "qkv"], [0, 1, 4]),
    ],
)
def test_which_layers_get_an_adapter(parts, targets, chosen):
    found = adapter_layers(LAYERS, QWEN2_5_VL.parts, settings(parts=parts, targets=targets))
    assert found == [LAYERS[i] for i in chosen]


@pytest.mark.parametrize("target", ["qkv", "proj", "lm_head", "all_linear"])
def test_a_target_that_is_no_layer_of_the_parts_is_refused(target):
    with pytest.raises(ConfigError, match=rf"actor\.lora\.targets: .*called {target}; got .*give .*gate_proj, q_proj$"):
        adapter_layers(LAYERS, QWEN2_5_VL.parts, settings(targets=["q_proj", target]))


def test_the_sum_over_bits_sees_one_bit_and_swapped_weights():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    sums = [int(bit_sum(model))]
    model[1].weight.data.view(torch.int32)[0, 0] ^= 1
    sums.append(int(bit_sum(model)))
    model[0].weight.data, model[1].weight.data = model[1].weight.data, model[0].weight.data
    sums.append(int(bit_sum(model)))
    assert len(set(sums)) == 3


def test_a_part_that_gets_no_adapter_is_refused():
    """Qwen2.5-VL's vision layers are called qkv and proj."""
    with pytest.raises(ConfigError, match=r"actor\.lora\.parts: none of .*\['q_proj'\] is a linear layer of vision"):
        adapter_layers(LAYERS, QWEN2_5_VL.parts, settings(parts=["language", "vision"], targets=["q_proj"]))
