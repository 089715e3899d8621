"""Operations and bytes that a step cannot do without, by hand and by what torch counts."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from torch import nn

from scripts.bench import gpu_work, step_floor
from scripts.bench import trainer_floor as floor
from scripts.bench.gpu_work import Flops
from scripts.bench.step_floor import StepShape, View

SHAPE = StepShape(prompts=3, views=(View(5, 2), View(4, 1)), images=2, image_side=56, response=3, ranks=2)
SMALL = SimpleNamespace(
    text_config=SimpleNamespace(
        hidden_size=8, num_attention_heads=2, num_key_value_heads=1, intermediate_size=10, num_hidden_layers=3,
        vocab_size=5,
    ),
    vision_config=SimpleNamespace(
        depth=2, hidden_size=4, intermediate_size=6, out_hidden_size=8, patch_size=14, temporal_patch_size=2,
        in_channels=3, spatial_merge_size=2, window_size=112, fullatt_block_indexes=[1],
    ),
)  # fmt: skip


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


@pytest.fixture(scope="module")
def small():
    """Decoder 4 x 6, head 4 x 5, two vision blocks 4 x 4 (one of windows), merger 16 x 4, patches of 7 numbers."""
    decoder = nn.Sequential(linear(4, 6))
    decoder.config = SimpleNamespace(num_attention_heads=2, head_dim=3, num_key_value_heads=1, num_hidden_layers=1)
    visual = nn.Module()
    visual.patch_embed = nn.Module()
    visual.patch_embed.proj = linear(7, 4)
    visual.blocks, visual.merger = nn.Sequential(linear(4, 4), linear(4, 4)), linear(16, 4)
    visual.config = SimpleNamespace(
        hidden_size=4, depth=2, fullatt_block_indexes=[1], window_size=28, patch_size=14, spatial_merge_size=2
    )
    backbone = nn.Module()
    backbone.model = nn.Module()
    backbone.model.language_model, backbone.model.visual, backbone.lm_head = decoder, visual, linear(4, 5)
    return backbone


def test_generation_by_hand(small):
    """Three prompts of two views: 6 images of 16 patches, 27 prompt tokens, two forwards of 9 tokens after them."""
    work = step_floor.generation_work(small, SHAPE)
    pairs_of_image = 16 * 16 + 4 * (4 * 4)
    vision = 2 * 28 * 96 + 2 * (16 + 16) * 96 + 4 * 4 * 6 * pairs_of_image + 2 * 64 * 24
    prompts = 2 * 24 * 27 + 4 * 6 * 3 * (15 + 10) + 2 * 20 * 6
    tokens = 2 * (2 * 24 * 9 + 2 * 20 * 9) + 4 * 6 * 3 * (2 * (6 + 7) + (5 + 6))
    assert (vision, prompts, tokens) == (45312, 3336, 4248)
    assert work.operations == vision + prompts + tokens
    vision = 4 * (2 * (96 * 8 + 16) + 24 * 20 + 64)
    prompts = 4 * (27 * 10 + 24 + 6 * 9 + 20)
    tokens = 2 * 4 * (9 * 10 + 24 + 9 * 9 + 20)
    cache = 2 * 3 * 4 * 3 * ((2 * 5 + 2 * (1 + 2)) + (2 * 4 + (1 + 2)))
    assert (vision, prompts, tokens, cache) == (8448, 1472, 1720, 1944)
    assert work.bytes == vision + prompts + tokens + cache


def test_update_by_hand(small):
    """The rank with two of three groups: 4 images, 2 * (5 + 2 * 3) tokens; anchors are not trained on."""
    work = step_floor.update_work(small, SHAPE)
    vision = 2 * 2 * 28 * 64 + 3 * (2 * 32 * 64 + 4 * 4 * 4 * 320 + 2 * 64 * 16)
    language = 3 * (2 * 24 * 22 + 4 * 6 * 2 * (15 + 2 * (6 + 7 + 8)) + 2 * 20 * 12)
    assert (vision, language) == (87040, 12816)
    assert work.operations == vision + language
    assert work.bytes == 3 * 4 * (2 * (64 * 8 + 16) + 16 * 20 + 64 + 22 * 10 + 24 + 12 * 9 + 20)
    assert step_floor.update_work(small, replace(SHAPE, views=SHAPE.views[:1])) == work


def test_sync_and_the_report(small):
    works = step_floor.stage_works(small, SHAPE)
    assert list(works) == ["gen", "update_actor", "sync_weights"]
    assert (works["sync_weights"].operations, works["sync_weights"].bytes) == (0, 2 * 4 * (28 + 32 + 64 + 24 + 20))
    report = step_floor.floor_report(works, {"operations_per_second": 52896.0, "bytes_per_second": 336.0})
    assert report["gen"] == {"operations": 52896, "bytes": 13584, "floor_seconds": 13584 / 336}
    assert report["sync_weights"]["floor_seconds"] == 4
    report = step_floor.floor_report(works, {"operations_per_second": 52896.0, "bytes_per_second": 13584.0})
    assert report["gen"]["floor_seconds"] == 1


def test_pairs_are_those_of_the_masks():
    assert floor.causal_pairs(3, 2) == 3 + 4 + 5
    assert floor.row_pairs(2, [1, 2]) == 6 + 10
    assert floor.group_pairs(2, [1, 2]) == 3 + 3 + (3 + 4)
    assert floor.window_pairs(8, 8, 8) == 64**2
    assert floor.window_pairs(10, 10, 8) == 64**2 + 2 * 16**2 + 4**2


def test_work_of_a_layer_by_hand():
    work = floor.linear_work(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), tokens=7, passes=3)
    assert work.operations == 3 * 2 * (15 + 10) * 7
    assert work.bytes == 3 * 4 * (7 * (3 + 5) + 15 + 7 * (5 + 2) + 10)
    assert floor.attention_work(width=4, pairs=10, layers=2, passes=3).operations == 3 * 4 * 4 * 10 * 2
    assert floor.floor_seconds(floor.Work(100.0, 30.0), 50.0, 10.0) == 3.0
    assert floor.floor_seconds(floor.Work(100.0, 30.0), 25.0, 10.0) == 4.0


def test_decoder_by_hand():
    assert gpu_work.layer_weights(SMALL) == 8 * (8 + 4 + 4 + 8) + 3 * 8 * 10 == 432
    # 6 tokens, causal: 21 pairs, each 8 numbers twice, multiplied and added.
    found = gpu_work.decoder_flops(SMALL, tokens=6, pairs=21)
    assert found == Flops(3 * (2 * 432 * 6 + 4 * 8 * 21), 2 * 3 * (2 * 432 * 6 + 4 * 8 * 21))
    assert found.total == 6 * (3 * 432) * 6 + 12 * 3 * 8 * 21
    assert gpu_work.head_flops(SMALL, scored=4) == Flops(2 * 8 * 5 * 4, 4 * 8 * 5 * 4)


def test_decoder_with_adapters_by_hand():
    """Rank 2: query, keys, values, output; gate, up, down. Below the first layer's q, k and v nothing is trained."""
    adapters = 2 * (8 + 8) + 2 * (8 + 4) + 2 * (8 + 4) + 2 * (8 + 8) + 2 * (8 + 10) + 2 * (8 + 10) + 2 * (10 + 8)
    assert gpu_work.adapter_weights(SMALL, rank=2) == adapters == 220
    lowest = (8 * 8 + 8 * 4 + 8 * 4) + 3 * (2 * 8)
    attention = 3 * (4 * 8 * 21)
    found = gpu_work.decoder_flops(SMALL, tokens=6, pairs=21, lora_rank=2)
    assert found.forward == 2 * 3 * (432 + 220) * 6 + attention
    assert found.backward == 2 * (3 * (432 + 220) - lowest) * 6 + 2 * 3 * 220 * 6 + 2 * attention
    assert found.total == 4 * 3 * 432 * 6 + 6 * 3 * 220 * 6 - 2 * lowest * 6 + 3 * attention
    assert gpu_work.head_flops(SMALL, scored=4, frozen=True) == Flops(2 * 8 * 5 * 4, 2 * 8 * 5 * 4)


def test_a_group_with_adapters_has_no_backward_in_its_frozen_vision_tower():
    group = gpu_work.Group(prompt=5, responses=(2, 1), grids=((2, 4), (2, 4)))
    full, lora = gpu_work.group_flops(SMALL, [group] * 2), gpu_work.group_flops(SMALL, [group] * 2, lora_rank=2)
    pairs = 15 + 2 * 5 + 3 + 1 * 5 + 1
    assert lora["decoder"] == gpu_work.decoder_flops(SMALL, 8, pairs, 2) + gpu_work.decoder_flops(SMALL, 8, pairs, 2)
    assert lora["vision"] == Flops(full["vision"].forward, 0.0)
    assert lora["head"] == Flops(2 * 8 * 5 * 6, 2 * 8 * 5 * 6)
    assert full["head"].backward == 2 * full["head"].forward == 2 * lora["head"].forward


def test_vision_tower_by_hand():
    patches, merged = 2 * 4, 2
    embedding = 2 * (3 * 2 * 14 * 14) * 4 * patches
    blocks = 2 * (2 * (4 * 16 + 3 * 24) * patches + 4 * 4 * patches**2)  # the image is smaller than a window
    merger = 2 * 16 * (16 + 8) * merged
    found = gpu_work.vision_flops(SMALL, (2, 4))
    assert found == Flops(embedding + blocks + merger, embedding + 2 * (blocks + merger))


def test_mfu_is_the_share_of_all_gpus_peak():
    assert gpu_work.mfu(3e14, seconds=2.0, peak_tflops=300.0, num_gpus=1) == 0.5
    assert gpu_work.mfu(3e14, seconds=2.0, peak_tflops=300.0, num_gpus=4) == 0.125
