"""The operations that no update can do without, against what torch counts on the tiny model."""

from __future__ import annotations

import pytest
from torch.utils.flop_counter import FlopCounterMode

from mars.actor.lora import add_adapters
from mars.config.actor_sections import LoraConfig
from scripts.bench import gpu_work
from scripts.bench import trainer_floor as floor
from scripts.bench.trainer_cases import LAYOUTS, Case, build_policy, case_work, forwards, packing_of

CASE = Case(131, 5, 3)


@pytest.fixture(scope="module")
def policies(one_thread):
    made = {packing: build_policy("tiny", packing) for packing in ("padded", "shared_prefix")}
    return {layout: made[packing_of(layout)] for layout in LAYOUTS}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_floor_has_the_products_that_torch_counts(policies, layout):
    """torch counts no attention on a CPU. Of the head it counts the logits twice, since backward computes them again,
    and not the gradient of the weight, which is added in place: as many operations."""
    policy = policies[layout]
    batches = forwards(CASE, layout, policy, 10_000)
    with FlopCounterMode(display=False) as counter:
        sum(policy(batch)[0].sum() for batch in batches).backward()
    config = policy.backbone.config.text_config
    attention = case_work(CASE, layout, policy, len(batches)).operations - counter.get_total_flops()
    pairs = floor.group_pairs(131, [5] * 3) if layout == "shared_prefix" else floor.row_pairs(131, [5] * 3)
    text = floor.attention_work(config.hidden_size, pairs, config.num_hidden_layers, 3).operations
    vision = policy.backbone.config.vision_config
    images = 6 if layout == "padded" else 2
    seen = images * floor.attention_work(vision.hidden_size, 64**2, vision.depth, 3).operations  # windows of 64 patches
    assert attention == pytest.approx(text + seen, rel=1e-6)


def test_an_update_of_adapters_has_the_products_that_torch_counts(one_thread):
    """Of the frozen head torch counts the logits twice, since backward computes them again."""
    policy = build_policy("tiny", "shared_prefix")
    lora = LoraConfig(rank=2, alpha=2.0, rank_stabilized=False, parts=["language"], targets=["all-linear"])
    add_adapters(policy, lora, seed=0)
    batches = forwards(CASE, "shared_prefix", policy, 10_000)
    with FlopCounterMode(display=False) as counter:
        sum(policy(batch)[0].sum() for batch in batches).backward()
    config, group = policy.backbone.config, gpu_work.Group(131, (5,) * 3, ((8, 8),) * 2)
    text, vision = config.text_config, config.vision_config
    parts = gpu_work.group_flops(config, [group], lora_rank=2)
    pairs = floor.group_pairs(131, [5] * 3)
    attention = floor.attention_work(text.hidden_size, pairs, text.num_hidden_layers, 3).operations
    attention += 2 * floor.attention_work(vision.hidden_size, 64**2, vision.depth, 1).operations
    counted = sum(part.total for part in parts.values()) + parts["head"].forward - attention
    assert counter.get_total_flops() == pytest.approx(counted, rel=1e-9)
