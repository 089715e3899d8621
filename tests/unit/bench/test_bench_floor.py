"""The floor of a step's stages, by hand and by what torch counts, and the picture of scripts/bench_step.py."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

SCRIPTS = Path(__file__).parents[3] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import bench_anchors  # noqa: E402
import bench_scale  # noqa: E402
from bench import contenders, step_floor  # noqa: E402
from bench.step_floor import StepShape, View  # noqa: E402
from bench.trainer_cases import Case, build_policy, case_work, make_group  # noqa: E402
from bench.trainer_floor import attention_work, causal_pairs  # noqa: E402
from bench.training import BENCH  # noqa: E402
from bench.workload import MODEL_FOLDER  # noqa: E402

from mars.config.load import load_config  # noqa: E402

SHAPE = StepShape(prompts=3, views=(View(5, 2), View(4, 1)), images=2, image_side=56, response=3, ranks=2)


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


def test_responses_of_one_token_come_from_the_prompt(small):
    one = replace(SHAPE, response=1)
    assert step_floor.cache_reads(one) == 0
    more = replace(one, views=(View(5, 20), View(4, 10)))
    assert step_floor.generation_work(small, one) == step_floor.generation_work(small, more)


def test_an_update_of_one_group_is_a_pack_of_bench_trainer(one_thread):
    policy, case = build_policy("tiny", "padded"), Case(131, 7, 5)
    shape = StepShape(1, (View(131, 5),), images=2, image_side=112, response=7, ranks=2)
    assert step_floor.update_work(policy.backbone, shape) == case_work(case, "shared_prefix", policy, num_forwards=1)


def test_generation_has_the_products_that_torch_counts(one_thread):
    """One prompt, one greedy response with a cache; torch counts no attention on a CPU."""
    backbone = build_policy("tiny", "padded").backbone.eval()
    prompt, _ = make_group(Case(131, 6, 1), backbone.config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        out = backbone.generate(
            input_ids=prompt.input_ids[None],
            mm_token_type_ids=(prompt.input_ids == backbone.config.image_token_id).int()[None],
            pixel_values=torch.cat(prompt.pixel_values),
            image_grid_thw=torch.tensor(prompt.image_grid_thw),
            do_sample=False,
            min_new_tokens=6,
            max_new_tokens=6,
        )
    assert out.shape == (1, 131 + 6)
    shape = StepShape(1, (View(131, 1),), images=2, image_side=112, response=6, ranks=1)
    work = step_floor.generation_work(backbone, shape).operations
    text, vision = backbone.config.text_config, backbone.config.vision_config
    # Position 0 to 135: the last token is fed to nothing. Windows of 64 patches hold a whole image.
    seen = attention_work(text.hidden_size, causal_pairs(136), text.num_hidden_layers, passes=1).operations
    seen += attention_work(vision.hidden_size, 2 * 64**2, vision.depth, passes=1).operations
    assert work - counter.get_total_flops() == pytest.approx(seen, rel=1e-6)


def settings(*overrides):
    return load_config("train", ["experiment=bench_step", "data.train_files=[none]", *overrides], [str(BENCH)])


def test_shapes_of_the_experiment():
    shape = step_floor.step_shape(settings(), (2, 112))
    assert shape == StepShape(16, (View(131, 8),), images=2, image_side=112, response=24, ranks=2)
    mono = step_floor.step_shape(settings("anchor=mono", "rollout.samples_per_prompt=6"), (2, 112))
    assert mono.views == (View(131, 6), View(113, 1), View(113, 1))
    others = ("anchor=all_but_one", "rollout.samples_per_prompt=2", "anchor.samples_per_view=2")
    assert step_floor.step_shape(settings(*others), (3, 112)).views == (View(149, 2), *[View(131, 2)] * 3)
    assert step_floor.step_shape(settings("rollout.max_response_tokens=5"), (1, 224)).views == (View(161, 8),)


def test_floors_of_the_contenders(tiny, tmp_path, monkeypatch):
    rates = {"operations_per_second": 1e9, "bytes_per_second": 1e9}
    monkeypatch.setattr(step_floor, "measured_rates", lambda: rates)
    plan = contenders.Plan(tmp_path, 3, 1, 2, 64, 60.0)
    runs = {name: (contenders.overrides(name, plan, tmp_path / name), (2, 112)) for name in contenders.OURS}
    found, floors = step_floor.measured_floors(runs, tiny)
    assert found == rates
    operations = {name: {stage: x["operations"] for stage, x in floor.items()} for name, floor in floors.items()}
    assert operations["ours_local"]["update_actor"] == 2 * operations["ours_ray"]["update_actor"]
    assert operations["ours_local"]["gen"] == operations["ours_ray"]["gen"] < operations["ours_anchored"]["gen"]
    assert operations["ours_anchored"]["update_actor"] < operations["ours_ray"]["update_actor"]
    weights = sum(parameter.numel() for parameter in build_policy("tiny", "padded").backbone.parameters())
    assert floors["ours_ray"]["sync_weights"]["bytes"] == 8 * weights


def test_floors_of_the_anchors(tiny, tmp_path, monkeypatch):
    """With two sources, leaving one out is showing the other; with three it shows more."""
    monkeypatch.setattr(step_floor, "measured_rates", lambda: {"operations_per_second": 1e9, "bytes_per_second": 1e9})
    (tmp_path / MODEL_FOLDER).symlink_to(tiny)
    variants = bench_anchors.variants([2, 3], rollouts=8, anchor_samples=1, tokens=[24])
    options = SimpleNamespace(launch="ray", packing="shared_prefix", steps=3, timeout=60.0)
    _, floors = bench_anchors._floors(variants, tmp_path, options)
    assert list(floors) == [variant.name for variant in variants]
    two, three = list(floors.values())[:3], list(floors.values())[3:]
    assert two[1] == two[2]
    assert two[0]["gen"]["operations"] < two[1]["gen"]["operations"]
    assert three[1]["gen"]["operations"] < three[2]["gen"]["operations"]
    assert three[1]["update_actor"] == three[2]["update_actor"]
    assert three[1]["update_actor"]["operations"] < three[0]["update_actor"]["operations"]


def test_floors_of_the_points_of_a_sweep(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(step_floor, "measured_rates", lambda: {"operations_per_second": 1e9, "bytes_per_second": 1e9})
    (tmp_path / MODEL_FOLDER).symlink_to(tiny)
    runner = bench_scale.Runner(tmp_path, "ray", 60.0, [])
    base, more = bench_scale.BASE, replace(bench_scale.BASE, prompts=32)
    rates, floors = bench_scale._floors([base, more], runner, 3)
    assert rates["bytes_per_second"] == 1e9
    assert floors[more]["gen"]["operations"] == 2 * floors[base]["gen"]["operations"]
    assert floors[more]["sync_weights"] == floors[base]["sync_weights"]
    assert bench_scale._floors([], runner, 3) == ({}, {})


def contender(seconds, **others):
    return {"seconds_per_step": seconds, "seconds_per_step_of_each_run": [seconds, 1.1 * seconds]} | others


def step_report():
    stages = {"gen": 0.4, "reward": 0.0, "old_log_prob": 0.0, "update_actor": 0.3, "sync_weights": 0.05, "driver": 0.01}
    floor = {stage: {"floor_seconds": stages[stage] / 10} for stage in ("gen", "update_actor", "sync_weights")}
    ours = {"stages": stages, "between_steps": 0.01, "floor": floor}
    return {
        "contenders": {"ours_ray": contender(0.8, **ours), "ours_local": contender(1.0, **ours), "trl": contender(1.7)},
        "checks": {
            "ours_ray/trl": {"value": 0.47, "target": 0.6},
            "ours_anchored/ours_ray": {"value": 0.9, "target": 0.95},
            "mars --help": {"value": 0.1, "target": 0.5},
        },
    }


def test_the_picture_has_stages_targets_and_floors(tmp_path, monkeypatch):
    from bench import step_picture

    kept, close = [], step_picture.plt.close
    monkeypatch.setattr(step_picture.plt, "close", kept.append)
    step_picture.draw(step_report(), tmp_path / "step.png")
    assert (tmp_path / "step.png").read_bytes().startswith(b"\x89PNG")
    steps, stages = kept[0].axes
    bars = [(round(bar.get_y() + bar.get_height() / 2), bar.get_x(), bar.get_width()) for bar in steps.patches]
    assert [(y, pytest.approx(x), pytest.approx(width)) for y, x, width in bars if y != 1] == [
        (0, 0.0, 0.4),
        (0, 0.4, 0.3),
        (0, 0.7, 0.05),
        (0, 0.75, 0.01),
        (0, 0.76, 0.01),
        (2, 0.0, 1.7),
    ]
    targets = [line.get_xdata()[0] for line in steps.lines if line.get_label() == "target"]
    assert targets == [pytest.approx(0.6 * 1.7)]
    assert [text.get_text() for text in stages.texts[:3]] == ["gen, 10 x", "update_actor, 10 x", "sync_weights, 10 x"]
    close(kept[0])


@pytest.mark.parametrize("names", [("trl",), ()])
def test_a_picture_of_what_ran(tmp_path, names):
    from bench.step_picture import draw

    report = step_report()
    report["contenders"] = {name: report["contenders"][name] for name in names}
    draw(report, tmp_path / "step.png")
    assert (tmp_path / "step.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_of_the_anchors_has_floors(tmp_path, monkeypatch):
    from bench import anchors_picture

    variant = step_report()["contenders"]["ours_ray"]
    engine = {"computed_prompt_tokens": 5, "response_tokens": 7, "distinct_images": 2, "encoder_runs": 2}
    kept, close = [], anchors_picture.plt.close
    monkeypatch.setattr(anchors_picture.plt, "close", kept.append)
    anchors_picture.draw({"variants": {"one": variant | {"engine": engine}}}, tmp_path / "anchors.png")
    black = [(bar.get_x(), bar.get_width()) for bar in kept[0].axes[0].patches if bar.get_facecolor()[:3] == (0, 0, 0)]
    assert [(pytest.approx(x), pytest.approx(width)) for x, width in black] == [(0, 0.04), (0.4, 0.03), (0.7, 0.005)]
    close(kept[0])
