"""The arithmetic of scripts/bench_scale.py and scripts/bench_anchors.py, and that their jobs are what they say."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "scripts"
sys.path.insert(0, str(SCRIPTS))

import bench_anchors  # noqa: E402
import bench_scale  # noqa: E402
from bench import workload  # noqa: E402
from bench.launch import LAUNCHES  # noqa: E402
from bench.memory import Memory, growth, is_ours, memory_of_child, named  # noqa: E402
from bench.process import run_process  # noqa: E402
from bench.training import BENCH, Done, Job, job_overrides, step_settings  # noqa: E402
from bench_anchors import Variant, engine_work, variants  # noqa: E402
from bench_scale import Point, long_report, point_report, sweep_points  # noqa: E402

from mars.config.load import load_config  # noqa: E402
from mars.data.pixels.images import probe_size  # noqa: E402
from mars.data.prompts.budget import ImageBudget, num_image_tokens  # noqa: E402


def mib(*values):
    return Memory(*map(float, values))


def test_processes_get_their_names_and_others_are_added_up():
    found = named(
        [
            (9, "ray::TrainerWorker.update", mib(300, 200, 350)),
            (7, "ray::TrainerWorker", mib(30, 20, 35)),
            (1, "python -m mars.main run.dir=ray::EngineWorker", mib(5, 4, 6)),
            (8, "ray::EngineWorker.generate", mib(700, 600, 800)),
            (2, "python -P -m mars.rewards.worker 5 6", mib(10, 1, 11)),
            (3, "python -P -m mars.rewards.worker 7 8", mib(20, 2, 22)),
            (4, "raylet", mib(1, 1, 1)),
            (5, "ray::IDLE", mib(2, 2, 2)),
        ],
        driver=1,
    )
    assert found == {
        "driver": mib(5, 4, 6),
        "rewards": mib(30, 3, 33),
        "ray": mib(3, 3, 3),
        "trainer 0": mib(30, 20, 35),
        "engine 0": mib(700, 600, 800),
        "trainer 1": mib(300, 200, 350),
    }
    assert [name for name in found if is_ours(name)] == ["driver", "trainer 0", "engine 0", "trainer 1"]


CHILD = "import os; held = b'x' * (80 << 20); os.write(1, b'.'); os.read(os.pipe()[0], 1)"
PARENT = """
import os, pathlib, subprocess, sys
held = b'x' * (40 << 20)
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
os.write(1, b'.')
while not pathlib.Path("seen").exists():
    child.poll()
child.kill()
"""


def test_the_memory_of_a_child_and_of_what_it_starts(tmp_path):
    """Two processes that hold 40 and 80 MiB, seen from outside while they live."""
    seen = []

    def watch():
        if not seen and (tmp_path / "out.log").read_bytes() == b"..":
            seen.append(memory_of_child())
            (tmp_path / "seen").touch()

    command = [sys.executable, "-c", PARENT, CHILD]
    run_process("holder", command, tmp_path, tmp_path / "out.log", {}, 60.0, watch)
    assert seen[0]["driver"].uss > 40
    assert seen[0]["ray"].uss > 80  # whatever it is, it is not the driver
    assert all(m.peak >= m.rss - 1 >= m.uss - 1 for m in seen[0].values())
    assert memory_of_child() == {}


def test_growth_by_hand():
    assert growth([100.0] * 100 + [103.0] * 100, 20) == pytest.approx(0.03)
    assert growth([500.0] * 19 + [100.0] * 10 + [99.0] * 10, 20) == pytest.approx(-0.01)
    ramp = [float(step) for step in range(1, 201)]  # medians of steps 20 to 29 and 191 to 200
    assert growth(ramp, 20) == pytest.approx(195.5 / 24.5 - 1)
    assert growth([100.0] * 30 + [900.0] + [100.0] * 9, 20) == 0.0  # one step does not decide


@pytest.mark.parametrize(("length", "first"), [(38, 20), (19, 1), (100, 0)])
def test_no_growth_of_too_few_steps(length, first):
    with pytest.raises(ValueError, match="steps"):
        growth([1.0] * length, first)


def a_run(seconds, rows, start=100.0):
    ends = [start + 10.0]
    for second in seconds:
        ends.append(ends[-1] + second)
    return Done(start, tuple(ends), tuple(rows))


def timings(gen, **others):
    return {"timing_s/gen": gen, "timing_s/step": gen + 1.0} | others


def test_a_point_of_a_sweep():
    memories = [{"driver": mib(1, 1, 5)}, {"driver": mib(2, 1, 6), "engine 0": mib(9, 9, 9)}, {"driver": mib(1, 1, 6)}]
    done = a_run([8.0, 2.0, 4.0], [timings(9.0), timings(9.0), timings(1.0), timings(3.0)])
    report = point_report(Point(samples=5, prompts=3, sources=2), done, memories, [7.0, 7.5, 7.75, 7.8], warm_up=1)
    assert report["driver_processor_seconds"] == pytest.approx(0.8 / 3)
    report = point_report(Point(samples=5, prompts=3, sources=2), done, memories, [7.0, 7.5, 7.75], warm_up=2)
    assert report["seconds_per_step"] == 3.0
    assert report["milliseconds_per_rollout"] == 200.0
    assert report["stages"]["gen"] == 2.0
    assert report["peak_memory_mib"] == {"driver": 6.0, "engine 0": 9.0}
    assert report["memory_mib"]["driver"] == 1.0  # after the warm-up
    assert report["driver_processor_seconds"] == pytest.approx(0.25)


def test_a_long_run_and_its_checks():
    flat, grown = mib(100, 50, 1), mib(103, 51, 1)
    memories = [{"driver": flat, "trainer 0": flat, "ray": flat}] * 29
    memories += [{"driver": flat, "trainer 0": grown, "ray": grown, "engine 0": flat}] * 10
    report = long_report(a_run([1.0] * 38, []), memories, warm_up=3)
    assert report["num_steps"] == 39
    assert len(report["seconds_per_step"]) == 36
    assert report["memory_mib"]["rss"]["trainer 0"] == [100.0] * 29 + [103.0] * 10
    assert report["growth"]["rss"] == pytest.approx({"driver": 0.0, "trainer 0": 0.03, "ray": 0.03})
    assert report["growth"]["uss"]["trainer 0"] == pytest.approx(0.02)
    found = bench_scale.checks({}, report)
    assert {name: check["met"] for name, check in found.items()} == {
        "driver rss growth": True,
        "trainer 0 rss growth": False,
    }
    assert bench_scale.checks({}, None) == bench_scale.checks({"samples": []}, {}) == {}


def test_checks_of_the_driver_over_samples_and_image_sizes():
    def points(name, values, peaks, seconds):
        return [
            {name: value, "peak_memory_mib": {"driver": peak, "engine 0": 99.0 * value}, "stages": {"driver": second}}
            for value, peak, second in zip(values, peaks, seconds, strict=True)
        ]

    sweeps = {
        "samples": points("samples", [4, 8, 16], [400.0, 404.0, 402.0], [0.008, 0.016, 0.016]),
        "image_side": points("image_side", [112, 448], [400.0, 420.0], [0.008, 0.010]),
        "sources": points("sources", [1, 2], [400.0, 900.0], [1.0, 9.0]),
    }
    found = {
        name: (pytest.approx(check["value"]), check["met"]) for name, check in bench_scale.checks(sweeps, None).items()
    }
    assert found == {
        "driver peak memory over samples": (1.01, True),
        "driver peak memory over image_side": (1.05, False),
        "driver seconds of a rollout over samples": (0.5, True),
        "driver seconds over image_side": (1.25, True),
    }
    assert bench_scale.checks({"image_side": sweeps["image_side"][:1]}, None) == {}


def config_of(special, tmp_path, sources=2, side=112):
    rows = workload.rows_file(sources, side)
    job = Job("name", (*LAUNCHES["local"], *special), tmp_path, rows, tmp_path / "run", 7, 60.0)
    return load_config("train", job_overrides(job), [str(BENCH)])


def test_a_sweep_varies_one_number_and_the_settings_follow(tmp_path):
    points = sweep_points(Point(8, 16, 2), {"samples": (4, 32), "sources": (1, 5)})
    assert points == {"samples": [Point(4, 16, 2), Point(32, 16, 2)], "sources": [Point(8, 16, 1), Point(8, 16, 5)]}
    config = config_of(Point(4, 32, 5).overrides(), tmp_path, sources=5)
    assert config.anchor.kind == "none"
    assert config_of(Point(4, 32, 5, anchor="mono").overrides(), tmp_path, sources=5).anchor.kind == "mono"
    assert (config.rollout.samples_per_prompt, config.data.prompts_per_step) == (4, 32)
    assert config.actor.prompts_per_update == 32
    assert config.data.train_files == [str(tmp_path / "rows_5_112.parquet")]
    assert (config.run.num_steps, config.anchor.kind) == (7, "none")
    longest = workload.prompt_tokens(len(workload.SOURCES))
    assert longest <= config.data.max_prompt_tokens
    assert longest + config.rollout.max_response_tokens <= config.rollout.max_model_len


@pytest.mark.parametrize("side", [112, 224, 448])
def test_images_are_processed_in_full_and_prompts_have_room_for_them(tmp_path, side):
    (point,) = sweep_points(bench_scale.BASE, {"image_side": [side]})["image_side"]
    config = config_of(point.overrides(), tmp_path, side=side)
    budget = ImageBudget(config.data.min_image_pixels, config.data.max_image_pixels, 14, 2)
    tokens = num_image_tokens((side, side), budget)
    assert tokens == (side // 28) ** 2
    assert workload.prompt_tokens(2, side) == 95 + 2 * (tokens + 2) <= config.data.max_prompt_tokens
    assert config.data.max_prompt_tokens + config.rollout.max_response_tokens <= config.rollout.max_model_len
    assert config.data.train_files == [str(tmp_path / f"rows_2_{side}.parquet")]
    if point == bench_scale.BASE:  # what the other sweeps vary stays the benchmark's step
        settings = step_settings()
        assert config.rollout.max_model_len == settings.rollout.max_model_len
        assert config.data.max_image_pixels == settings.data.max_image_pixels


def test_variants_have_equal_numbers_of_rollouts(tmp_path):
    found = variants([2, 3], rollouts=8, anchor_samples=1, tokens=[24])
    assert [variant.name for variant in found] == [
        "none, 2 sources, 8 x 24 tokens",
        "mono, 2 sources, 6+1+1 x 24 tokens",
        "all_but_one, 2 sources, 6+1+1 x 24 tokens",
        "none, 3 sources, 8 x 24 tokens",
        "mono, 3 sources, 5+1+1+1 x 24 tokens",
        "all_but_one, 3 sources, 5+1+1+1 x 24 tokens",
    ]
    for variant in found:
        config = config_of(variant.overrides(), tmp_path, variant.sources)
        views = 0 if config.anchor.kind == "none" else variant.sources
        assert config.rollout.max_response_tokens == 24
        assert config.rollout.samples_per_prompt + views * config.anchor.samples_per_view == 8
    config = config_of(Variant("all_but_one", 3, 2, 2, 200).overrides(), tmp_path, 3)
    assert (config.rollout.max_response_tokens, config.rollout.max_model_len) == (
        200,
        config.data.max_prompt_tokens + 200,
    )
    assert (config.rollout.samples_per_prompt, config.anchor.samples_per_view) == (2, 2)


def step_row(hit_rate, encoder_runs=4.0, gen=1.0):
    """120 tokens in 2 seconds, 20 of them responses."""
    return timings(
        gen,
        **{
            "perf/throughput": 60.0,
            "timing_s/step": 2.0,
            "rollout/tokens": 20.0,
            "rollout/prefix_cache_hit_rate": hit_rate,
            "rollout/distinct_images": 4.0,
            "rollout/encoder_runs": encoder_runs,
        },
    )


def test_work_of_the_engine_by_hand():
    assert engine_work([step_row(0.75), step_row(0.25, encoder_runs=6.0)]) == {
        "response_tokens": 20.0,
        "prompt_tokens": 100.0,
        "computed_prompt_tokens": 50.0,
        "computed_tokens": 70.0,
        "distinct_images": 4.0,
        "encoder_runs": 5.0,
    }


def test_checks_of_the_anchors_compare_equal_work():
    none, mono, other = Variant("none", 2, 8, 0, 24), Variant("mono", 2, 6, 1, 24), Variant("mono", 3, 5, 1, 24)
    runs = {
        none: [a_run([9.0, 4.0], [step_row(0.5)] * 3), a_run([9.0, 4.0], [step_row(0.5)] * 3)],
        mono: [a_run([9.0, 3.0], [step_row(0.5, encoder_runs=6.0)] * 3)],
        other: [a_run([9.0, 8.0], [step_row(0.5)] * 3)],
        replace(mono, tokens=64): [a_run([9.0, 8.0], [step_row(0.5)] * 3)],
    }
    found = bench_anchors.checks(runs, warm_up=2)
    assert {name: (check["value"], check["met"]) for name, check in found.items()} == {
        "none, 2 sources, 8 x 24 tokens: encoder runs of an image": (1.0, True),
        "mono, 2 sources, 6+1+1 x 24 tokens: encoder runs of an image": (1.5, False),
        "mono, 2 sources, 6+1+1 x 24 tokens / none": (0.75, True),
        "mono, 3 sources, 5+1+1+1 x 24 tokens: encoder runs of an image": (1.0, True),
        "mono, 2 sources, 6+1+1 x 64 tokens: encoder runs of an image": (1.0, True),
    }


def test_both_pictures_are_drawn(tmp_path):
    from bench import anchors_picture, scale_picture

    done = a_run([2.0, 4.0], [timings(1.0)] * 3)
    point = point_report(Point(4, 2, 1), done, [{"driver": mib(1, 1, 1)}] * 3, [1.0, 2.0, 3.0], warm_up=1)
    point["floor"] = {"gen": {"floor_seconds": 0.1}}
    memories = [{"driver": mib(1, 1, 1), "ray": mib(1, 1, 1)}] * 39
    report = {
        "sweeps": {
            "samples": [{"samples": 4} | point, {"samples": 8} | point],
            "prompts": [],
            "image_side": [{"image_side": side} | point for side in (112, 224)],
        },
        "steps": json.loads(json.dumps(long_report(a_run([1.0] * 38, []), memories, warm_up=1))),
    }
    scale_picture.draw(report, tmp_path / "scale.png")
    report = {"variants": {name: bench_anchors.variant_report([a_run([2.0], [step_row(0.5)] * 2)], 1) for name in "ab"}}
    anchors_picture.draw(report, tmp_path / "anchors.png")
    for name in ("scale.png", "anchors.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("num_sources", "side"), [(1, 112), (3, 112), (2, 224)])
def test_every_prompt_of_the_workload_has_the_length_it_says(tmp_path, num_sources, side):
    from pyarrow import parquet

    from mars.data.prompts.chat import PromptEncoder, prompt_length
    from mars.data.synthetic.tiny_model import build_tiny
    from mars.types import Message

    build_tiny(tmp_path / workload.MODEL_FOLDER, seed=0)
    workload._write_rows(tmp_path, 3, num_sources, side)
    rows = parquet.read_table(tmp_path / workload.rows_file(num_sources, side)).to_pylist()
    encoder = PromptEncoder.from_pretrained(str(tmp_path / workload.MODEL_FOLDER))
    for row in rows:
        assert len(row["images"]) == len(row["extra_info"]["sources"]) == num_sources
        assert all((tmp_path / path).is_file() for path in row["images"])
        ids = encoder.encode((Message("user", row["prompt"][0]["content"]),), num_sources)
        assert all(probe_size(str(tmp_path / path), "rgb", path) == (side, side) for path in row["images"])
        tokens = (side // 28) ** 2
        assert prompt_length(ids, [tokens] * num_sources) == workload.prompt_tokens(num_sources, side)
    assert len({path for row in rows for path in row["images"]}) == 3 * num_sources
    assert workload.prompt_tokens(2) == 131
