"""The arithmetic of scripts/bench_trainer.py: ratios, checks and the floor. Nothing is timed here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

SCRIPTS = Path(__file__).parents[3] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import bench_trainer as bench  # noqa: E402
from bench import trainer_floor as floor  # noqa: E402
from bench.trainer_cases import LAYOUTS, Case, build_policy, case_work, forwards, packing_of  # noqa: E402

SMALL = Case(131, 5, 3)


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


@pytest.fixture(scope="module")
def policies(one_thread):
    made = {packing: build_policy("tiny", packing) for packing in ("padded", "shared_prefix")}
    return {layout: made[packing_of(layout)] for layout in LAYOUTS}


def test_layouts_differ_in_work_and_agree_in_result(policies):
    found, sizes = {}, {}
    for layout, policy in policies.items():
        batches = forwards(SMALL, layout, policy, 280)  # two rows a forward
        with torch.no_grad():
            found[layout] = torch.cat([policy(batch)[0] for batch in batches])
        sizes[layout] = (
            len(batches),
            sum(batch.input_ids.numel() for batch in batches),
            sum(len(batch.image_grid_thw) for batch in batches),
        )
    assert sizes == {"padded": (2, 3 * 136, 6), "vision_once": (2, 3 * 136, 4), "shared_prefix": (1, 131 + 15, 2)}
    for other in ("vision_once", "shared_prefix"):
        torch.testing.assert_close(found[other], found["padded"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_floor_has_the_products_that_torch_counts(policies, layout):
    """torch counts no attention on a CPU; and the head's forward twice, since backward does it again."""
    policy = policies[layout]
    batches = forwards(SMALL, layout, policy, 10_000)
    with FlopCounterMode(display=False) as counter:
        sum(policy(batch)[0].sum() for batch in batches).backward()
    config = policy.backbone.config.text_config
    again = 2 * config.hidden_size * config.vocab_size * 15
    work = case_work(SMALL, layout, policy, len(batches)).operations
    attention = work - (counter.get_total_flops() - again)
    pairs = floor.group_pairs(131, [5] * 3) if layout == "shared_prefix" else floor.row_pairs(131, [5] * 3)
    text = floor.attention_work(config.hidden_size, pairs, config.num_hidden_layers, 3).operations
    vision = policy.backbone.config.vision_config
    images = 6 if layout == "padded" else 2
    seen = images * floor.attention_work(vision.hidden_size, 64**2, vision.depth, 3).operations  # windows of 64 patches
    assert attention == pytest.approx(text + seen, rel=1e-6)


def timings(*seconds):
    return [bench.Timing(forward, backward) for forward, backward in seconds]


def test_ratios_are_of_neighbours_in_time():
    ratio = bench.ratio(timings((2.0, 4.0), (1.0, 1.0), (3.0, 6.0)), timings((1.0, 1.0), (0.5, 0.5), (1.0, 0.5)))
    assert ratio == {"value": 3.0, "of_each_round": [3.0, 2.0, 6.0]}


def test_checks_of_what_was_measured():
    found = {
        layout: timings((seconds, 0.0))
        for layout, seconds in zip(LAYOUTS, (7.0, 5.0, 2.0), strict=True)
    }  # fmt: skip
    report = {"cases": {"131/24/8": bench.case_report(found)}}
    report["growth"] = bench.growth_report({"600/60/4": timings((1.0, 1.0)), "600/60/16": timings((2.0, 2.0))})
    assert bench.checks(report) == {
        "mid 131/24/8 padded/shared_prefix": {"value": 3.5, "at_least": 3.3, "met": True},
        "mid shared_prefix 600/60/16 / 600/60/4": {"value": 2.0, "at_most": 1.9, "met": False},
    }
    assert bench.checks({}) == {}
    assert report["cases"]["131/24/8"]["vision_once/shared_prefix"]["value"] == 2.5


def test_a_picture_of_a_report(tmp_path):
    from bench.trainer_picture import draw

    layouts = {
        layout: {"seconds": seconds, "forward_seconds": seconds / 3, "floor_seconds": seconds / 5}
        for layout, seconds in zip(LAYOUTS, (7.0, 5.0, 2.0), strict=True)
    }
    case = {"layouts": layouts, "padded/shared_prefix": {"value": 3.5}}
    draw({"models": {"mid": {"parameters": 3e7, "cases": {"131/24/8": case}}}}, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
