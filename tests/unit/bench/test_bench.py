"""The arithmetic of scripts/bench_step.py, and that its contenders do the same work. Nothing is timed here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from bench import contenders, reward  # noqa: E402
from bench.summary import Run, contender_report, intervals, ratio, rounded, stage_seconds  # noqa: E402
from bench_step import checks  # noqa: E402

from mars.config.load import load_config  # noqa: E402
from mars.tracking.jsonl import read_metrics  # noqa: E402
from mars.tracking.timer import StepTimer  # noqa: E402

PLAN = contenders.Plan(
    folder=Path("/bench"), num_steps=12, warm_up=3, trl_threads=2, trl_sequences_per_forward=64, timeout=60.0
)


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


@pytest.mark.parametrize("warm_up", [0, 4])
def test_no_interval_without_a_step_before_and_one_after(warm_up):
    with pytest.raises(ValueError, match="1 to 3"):
        intervals([10.0, 12.0, 13.0, 15.0], warm_up)


def test_stages_of_a_metrics_file(tmp_path):
    rows = [row(1.0, 4.0, 0.5), row(3.0, 8.0, 0.0), row(2.0, 5.0, 1.0, old_log_prob=9.0)]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps({"step": i + 1} | values) + "\n" for i, values in enumerate(rows)))
    assert stage_seconds(read_metrics(file).rows) == {
        "gen": 2.0,
        "reward": 0.25,
        "old_log_prob": 0.0,
        "update_actor": 5.0,
        "sync_weights": 0.125,
        "driver": 0.5,
    }


def test_stages_are_all_the_timer_knows():
    ticks = iter(range(100))
    timer = StepTimer(clock=lambda: float(next(ticks)))
    for name in ("gen", "reward", "update_actor", "sync_weights"):
        with timer.stage(name):
            pass
    timer.move(0.5, "update_actor", "old_log_prob")
    metrics = timer.metrics()
    assert sum(stage_seconds([metrics]).values()) == metrics["timing_s/step"]


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


def test_a_trainer_without_metrics_has_no_stages():
    assert "stages" not in contender_report([a_run("trl")])


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


def test_rounded_reaches_nested_values_and_keeps_the_rest():
    value = {"a": [1.23456, 2], "b": (0.00004,), "c": "text", "d": True, "e": {"f": 1 / 3}}
    assert rounded(value) == {"a": [1.2346, 2], "b": [0.0], "c": "text", "d": True, "e": {"f": 0.3333}}


@pytest.mark.parametrize(("text", "score"), [("abz", 2 / 3), ("NOPE am", 3 / 6), ("", 0.0), ("12 é", 0.0)])
def test_both_trainers_get_the_same_reward(text, score):
    assert reward.score(text, "none") == score
    assert reward.score_completions([[{"role": "assistant", "content": text}]], other=1) == [score]


@pytest.mark.parametrize("contender", contenders.OURS)
def test_our_contenders_differ_only_where_they_say(contender, tmp_path):
    config = load_config(
        "train", contenders.overrides(contender, PLAN, tmp_path / "it's, here"), [str(contenders.BENCH)]
    )
    common = contenders.step_settings()
    views = 2 if config.anchor.kind == "mono" else 0
    assert config.rollout.samples_per_prompt + views * config.anchor.samples_per_view == 8
    assert (config.data.prompts_per_step, config.actor.prompts_per_update) == (16, 16)
    assert config.rollout.max_response_tokens == 24
    assert config.algorithm.model_copy(update={"kl_reference": common.model.path}) == common.algorithm
    assert config.algorithm.kl_coefficient == 0
    assert config.rollout.model_copy(update={"samples_per_prompt": 8}) == common.rollout
    assert config.actor.model_copy(update={"num_workers": 2}) == common.actor
    assert config.run.dir == str(tmp_path / "it's, here")


def test_a_failed_process_is_shown_with_the_end_of_its_output(tmp_path):
    lines = "; ".join(f"print('line {i}')" for i in range(30))
    command = [sys.executable, "-c", f"{lines}; raise SystemExit(3)"]
    with pytest.raises(contenders.ContenderFailed, match="exit code 3") as failure:
        contenders.run_process("child", command, tmp_path, tmp_path / "out.log", {}, 60.0, lambda: None)
    assert str(failure.value).splitlines()[1:] == [f"line {i}" for i in range(10, 30)]


def test_a_process_is_watched_until_after_its_end(tmp_path):
    command = [sys.executable, "-c", "import os; open('rows', 'w').write(os.environ['WORD'])"]
    seen = []

    def watch():
        file = tmp_path / "rows"
        seen.append(file.read_text() if file.exists() else "")

    contenders.run_process("child", command, tmp_path, tmp_path / "out.log", {"WORD": "done"}, 60.0, watch)
    assert seen[-1] == "done"


def test_a_process_that_takes_too_long_is_ended(tmp_path):
    command = [sys.executable, "-c", "import os; os.read(0, 1); os.pipe(); import signal; signal.pause()"]
    with pytest.raises(contenders.ContenderFailed, match="not done after 0 s"):
        contenders.run_process("child", command, tmp_path, tmp_path / "out.log", {}, 0.0, lambda: None)
