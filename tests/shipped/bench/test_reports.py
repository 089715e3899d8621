"""From the times of steps and processes to the figures of the reports, by hand. Nothing is timed here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scripts.bench import anchors, gpu_report, scale, trainer
from scripts.bench.anchors import Variant, engine_work
from scripts.bench.memory import Memory, growth, is_ours, named
from scripts.bench.scale import Point, long_report, point_report
from scripts.bench.step import checks
from scripts.bench.summary import Run, contender_report, intervals, ratio
from scripts.bench.training import Done


def a_run(contender="ours_ray", number=0, steps=(1.0,), launch=10.0, rows=()):
    return Run(contender, number, tuple(steps), launch, 24.0, 0.0, tuple(rows))


def row(gen, update, driver, **others):
    timings = {"gen": gen, "reward": 0.25, "update_actor": update, "sync_weights": 0.125, "driver": driver, **others}
    step = sum(timings.values())
    return {f"timing_s/{name}": value for name, value in timings.items()} | {
        "timing_s/step": step,
        "perf/driver_share": driver / step,
    }


def test_intervals_leave_the_warm_up_out():
    assert intervals([10.0, 12.0, 13.0, 15.0], warm_up=1) == (2.0, 1.0, 2.0)
    assert intervals([10.0, 12.0, 13.0, 15.0], warm_up=3) == (2.0,)


def test_a_contender_is_the_median_over_all_steps_of_all_runs():
    slow = [row(6.0, 1.0, 0.625)] * 2  # steps of 8 s
    fast = [row(1.0, 2.0, 0.625)] * 3  # steps of 4 s
    report = contender_report(
        [
            a_run(steps=(9.0, 8.5), launch=30.0, rows=slow),
            a_run(number=1, steps=(4.0, 4.5, 5.0), launch=20.0, rows=fast),
        ]
    )
    assert report["seconds_per_step"] == 5.0
    assert report["seconds_per_step_of_each_run"] == [8.75, 4.5]
    assert report["num_steps"] == 5
    assert report["launch_to_first_step"] == 25.0
    assert report["step"] == 4.0
    assert report["stages"]["gen"] == 1.0
    assert report["driver_share"] == 0.625 / 4
    assert report["between_steps"] == 0.5  # of 1, 0.5, 0, 0.5 and 1


def test_ratio_is_that_of_the_medians_and_rounds_are_paired_by_number():
    ours = [a_run(number=0, steps=(3.0, 3.0, 9.0)), a_run(number=2, steps=(3.0,))]
    trl = [a_run("trl", number=1, steps=(2.0,)), a_run("trl", number=2, steps=(2.0, 4.0, 4.0))]
    assert ratio(ours, trl, 1.0) == {"value": 1.0, "target": 1.0, "met": True, "of_each_round": [0.75]}
    assert ratio(trl, ours, 0.9)["met"] is False


def test_checks_name_what_ran_and_nothing_else():
    rows = [row(1.0, 2.0, 0.0)]
    runs = {"ours_ray": [a_run(steps=(1.5,), launch=41.0, rows=rows)], "trl": [a_run("trl", steps=(1.0,))]}
    found = checks(runs, help_seconds=0.4)
    assert {name: check["met"] for name, check in found.items()} == {
        "ours_ray/trl": False,
        "ours_ray launch_to_first_step": False,
        "ours_ray driver_share": True,
        "mars --help": True,
    }


# --- scale and anchors


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


def test_growth_by_hand():
    assert growth([100.0] * 100 + [103.0] * 100, 20) == pytest.approx(0.03)
    assert growth([500.0] * 19 + [100.0] * 10 + [99.0] * 10, 20) == pytest.approx(-0.01)
    ramp = [float(step) for step in range(1, 201)]  # medians of steps 20 to 29 and 191 to 200
    assert growth(ramp, 20) == pytest.approx(195.5 / 24.5 - 1)
    assert growth([100.0] * 30 + [900.0] + [100.0] * 9, 20) == 0.0  # one step does not decide


def done_run(seconds, rows, start=100.0):
    ends = [start + 10.0]
    for second in seconds:
        ends.append(ends[-1] + second)
    return Done(start, tuple(ends), tuple(rows))


def timings(gen, **others):
    return {"timing_s/gen": gen, "timing_s/step": gen + 1.0} | others


def test_a_point_of_a_sweep():
    memories = [{"driver": mib(1, 1, 5)}, {"driver": mib(2, 1, 6), "engine 0": mib(9, 9, 9)}, {"driver": mib(1, 1, 6)}]
    done = done_run([8.0, 2.0, 4.0], [timings(9.0), timings(9.0), timings(1.0), timings(3.0)])
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
    report = long_report(done_run([1.0] * 38, []), memories, warm_up=3)
    assert report["num_steps"] == 39
    assert len(report["seconds_per_step"]) == 36
    assert report["memory_mib"]["rss"]["trainer 0"] == [100.0] * 29 + [103.0] * 10
    assert report["growth"]["rss"] == pytest.approx({"driver": 0.0, "trainer 0": 0.03, "ray": 0.03})
    assert report["growth"]["uss"]["trainer 0"] == pytest.approx(0.02)
    found = scale.checks({}, report)
    assert {name: check["met"] for name, check in found.items()} == {
        "driver rss growth": True,
        "trainer 0 rss growth": False,
    }
    assert scale.checks({}, None) == scale.checks({"samples": []}, {}) == {}


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
        none: [done_run([9.0, 4.0], [step_row(0.5)] * 3), done_run([9.0, 4.0], [step_row(0.5)] * 3)],
        mono: [done_run([9.0, 3.0], [step_row(0.5, encoder_runs=6.0)] * 3)],
        other: [done_run([9.0, 8.0], [step_row(0.5)] * 3)],
        replace(mono, tokens=64): [done_run([9.0, 8.0], [step_row(0.5)] * 3)],
    }
    found = anchors.checks(runs, warm_up=2)
    assert {name: (check["value"], check["met"]) for name, check in found.items()} == {
        "none, 2 sources, 8 x 24 tokens: encoder runs of an image": (1.0, True),
        "mono, 2 sources, 6+1+1 x 24 tokens: encoder runs of an image": (1.5, False),
        "mono, 2 sources, 6+1+1 x 24 tokens / none": (0.75, True),
        "mono, 3 sources, 5+1+1+1 x 24 tokens: encoder runs of an image": (1.0, True),
        "mono, 2 sources, 6+1+1 x 64 tokens: encoder runs of an image": (1.0, True),
    }


# --- trainer and gpu


def passes(*seconds):
    return [trainer.Timing(forward, backward) for forward, backward in seconds]


def test_ratios_are_of_neighbours_in_time():
    ratio = trainer.ratio(passes((2.0, 4.0), (1.0, 1.0), (3.0, 6.0)), passes((1.0, 1.0), (0.5, 0.5), (1.0, 0.5)))
    assert ratio == {"value": 3.0, "of_each_round": [3.0, 2.0, 6.0]}


def test_checks_of_what_was_measured():
    found = {
        layout: passes((seconds, 0.0))
        for layout, seconds in zip(trainer.LAYOUTS, (7.0, 5.0, 2.0), strict=True)
    }  # fmt: skip
    report = {"cases": {"131/24/8": trainer.case_report(found)}}
    report["growth"] = trainer.growth_report({"600/60/4": passes((1.0, 1.0)), "600/60/16": passes((2.0, 2.0))})
    assert trainer.checks(report) == {
        "mid 131/24/8 padded/shared_prefix": {"value": 3.5, "at_least": 3.3, "met": True},
        "mid shared_prefix 600/60/16 / 600/60/4": {"value": 2.0, "at_most": 1.9, "met": False},
    }
    assert trainer.checks({}) == {}
    assert report["cases"]["131/24/8"]["vision_once/shared_prefix"]["value"] == 2.5


def gpu_run(number, update, mfu=None):
    found = {"round": number, "seconds": {"update_actor": update, "old_log_prob": 0.0, "step": 2 * update}}
    return found if mfu is None else found | {"update_mfu": mfu}


def test_ratios_of_gpu_runs_are_of_runs_of_one_round():
    runs = {
        "padded": [gpu_run(0, 9.0), gpu_run(2, 8.0)],
        "shared_prefix": [gpu_run(0, 3.0, 0.5), gpu_run(1, 1.0, 0.4), gpu_run(2, 2.0, 0.44)],
    }
    report = gpu_report.variant_report(runs)
    assert report["padded/shared_prefix"]["update_actor"] == {"value": 3.5, "of_each_round": [3.0, 4.0]}
    assert "old_log_prob" not in report["padded/shared_prefix"]
    assert gpu_report.checks({"two": {"checkpointing": report}}) == {
        "two checkpointing update_mfu": {"value": 0.44, "at_least": 0.45, "met": False}
    }


def test_checks_of_variants_and_of_the_case_with_a_speed_up():
    both = gpu_report.variant_report({"padded": [gpu_run(0, 8.0, 0.2)], "shared_prefix": [gpu_run(0, 2.0, 0.46)]})
    alone = gpu_report.variant_report({"shared_prefix": [gpu_run(0, 1.5, 0.4)]})
    variants = {"checkpointing": both, "no_checkpointing": alone, "lora": alone, "hf_engine": alone}
    assert gpu_report.checks({"two_1280x1024": variants}) == {
        "two_1280x1024 checkpointing update_mfu": {"value": 0.46, "at_least": 0.45, "met": True},
        "two_1280x1024 checkpointing padded/shared_prefix": {"value": 4.0, "at_least": 3.0, "met": True},
        "two_1280x1024 no_checkpointing update_mfu": {"value": 0.4, "at_least": 0.45, "met": False},
    }
    assert gpu_report.checks({"two_1280x1024": {"lora": alone}}) == {}
    runs = [gpu_run(0, 2.0, 0.5) | {"peak_memory_gib": 70.25}, gpu_run(1, 3.0, 0.3) | {"peak_memory_gib": 71.0}]
    report = gpu_report.variant_report({"shared_prefix": runs, "padded": [gpu_run(0, 8.0)]})
    whole = {
        "cases": {"two_1280x1024": {"checkpointing": report}},
        "checks": gpu_report.checks({"two_1280x1024": {"checkpointing": report}}),
        "skipped": [{"run": "lora_0", "reason": "not enough time"}],
        "failures": [{"run": "hf_engine_0", "reason": "exit code 1\nTraceback\nRuntimeError: no"}],
    }
    assert gpu_report.summary_lines(whole) == [
        "two_1280x1024 checkpointing shared_prefix: update 2.50 s, MFU 40.0 %, peak memory 71.0 GiB",
        "two_1280x1024 checkpointing padded: update 8.00 s",
        "two_1280x1024 checkpointing update_mfu: 0.4, target 0.45 missed",
        "two_1280x1024 checkpointing padded/shared_prefix: 4, target 3 met",
        "left out: lora_0: not enough time",
        "failed: hf_engine_0: RuntimeError: no",
    ]
