"""The main job as a user runs it: real vLLM, real Ray, real FSDP2 ranks, real image files."""

import hashlib
import json
import math
from pathlib import Path

import pytest

from mars.run_dir.activity import read_activity
from mars.run_dir.attempt import recorded_processes
from tests.integration.workshop import LOCAL, Job, Workshop, run
from tests.shipped.test_docs_metrics import undocumented

TIMINGS = ("timing_s/", "perf/")


def untimed(job: Job) -> list[dict]:
    return [{k: v for k, v in row.items() if not k.startswith(TIMINGS)} for row in job.metrics]


@pytest.fixture(scope="module")
def ray_job(workshop: Workshop, tmp_path_factory) -> Job:
    """One engine worker and two FSDP ranks on a Ray cluster of this machine."""
    folder = tmp_path_factory.mktemp("ray") / "run"
    job = workshop.train(folder, "evaluation.before_training=true", "evaluation.every=2")
    assert job.returncode == 0, job.stderr[-3000:]
    return job


@pytest.fixture(scope="module")
def local_job(workshop: Workshop, tmp_path_factory) -> Job:
    job = workshop.train(tmp_path_factory.mktemp("local") / "run", *LOCAL)
    assert job.returncode == 0, job.stderr[-3000:]
    return job


def test_training_moves_the_policy(ray_job: Job):
    before, first, second = ray_job.metrics
    assert before["step"] == 0
    assert "eval/multi/mean" in before
    for row in (first, second):
        assert row["actor/grad_norm"] > 0
        assert row["mars/lambda"] == pytest.approx(4 / 6)
        assert row["fault/skipped_updates"] == 0
        assert row["reward/failed"] == 0


def test_engine_and_trainer_have_the_same_weights_in_every_step(ray_job: Job):
    for row in ray_job.metrics[1:]:
        assert row["rollout/logprob_diff_max"] < 1e-4


@pytest.mark.slow
def test_two_ranks_train_as_one_does(ray_job: Job, local_job: Job):
    """The same seeds give the same rollouts on both; the update then differs by rounding alone."""
    for many, one in zip(ray_job.metrics[1:], local_job.metrics, strict=True):
        for key in ("critic/score/mean", "rollout/tokens", "mars/gain/mean"):
            assert many[key] == one[key]
        for key in ("actor/pg_loss", "actor/grad_norm", "actor/entropy"):
            assert many[key] == pytest.approx(one[key], rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_the_same_config_gives_the_same_metrics(workshop: Workshop, local_job: Job, tmp_path: Path):
    again = workshop.train(tmp_path / "run", *LOCAL)
    assert untimed(again) == untimed(local_job)
    other_seed = workshop.train(tmp_path / "other", *LOCAL, "run.seed=1", "run.num_steps=1")
    assert untimed(other_seed)[0] != untimed(local_job)[0]


def test_every_metric_is_documented(ray_job: Job):
    keys = {key for row in ray_job.metrics for key in row} - {"step"}
    assert not undocumented(keys)


def test_the_parts_of_a_step_add_up(ray_job: Job):
    for row in ray_job.metrics[1:]:
        stages = sum(value for key, value in row.items() if key.startswith("timing_s/") and key != "timing_s/step")
        assert math.isclose(stages, row["timing_s/step"], rel_tol=1e-6)


def test_workers_log_to_their_attempt(ray_job: Job):
    attempt = ray_job.run_dir / "logs" / "attempt_1"
    assert {path.name for path in attempt.glob("*.log")} == {"engine-0.log", "actor-0.log", "actor-1.log"}
    assert [path.name for path in (ray_job.run_dir / "logs").iterdir()] == ["attempt_1"]
    names = [name for _, name in recorded_processes(attempt)]
    assert any("raylet" in name for name in names)
    assert names[:4] == ["mars", "actor-0", "actor-1", "engine-0"]
    noted = read_activity(attempt)
    assert noted is not None
    assert noted.activity.stages == ()  # the last step is over
    assert sorted(noted.activity.answered_s) == ["actor-0", "actor-1", "engine-0"]


def test_the_saved_policy_is_evaluated_in_a_fresh_process(workshop: Workshop, ray_job: Job, tmp_path: Path):
    policy = ray_job.run_dir / "policy"
    out = tmp_path / "result.json"
    job = run(
        ["-m", "mars.cli.main", "eval", "run", str(policy), str(workshop.data / "test.parquet"),
         "experiment=quickstart",
         "cluster.kind=local", "actor.num_workers=1", f"run.dir='{tmp_path / 'eval'}'", "--out", str(out)],
        tmp_path / "eval",
    )  # fmt: skip
    assert job.returncode == 0, job.stderr[-3000:]
    assert "Mono infrared" in job.stdout
    assert out.is_file()


def evaluate(ray_job: Job, *arguments: object) -> str:
    """What `mars eval` prints."""
    command = ["-m", "mars.cli.main", "eval", *map(str, arguments)]
    job = run(command, ray_job.run_dir)
    assert job.returncode == 0, job.stderr[-3000:]
    return job.stdout


def test_what_the_run_kept_is_scored_compared_and_shown(ray_job: Job):
    """Random text scores no box, under both scorers; every answer counts all the same."""
    evaluations = [ray_job.run_dir / "evaluation" / f"step_{step:06d}.jsonl" for step in (0, 2)]
    rollouts = ray_job.run_dir / "rollouts" / "step_000001.jsonl"
    for file in (rollouts, *evaluations):
        result = json.loads(evaluate(ray_job, "score", file, "--task", "grounding", "--json"))
        assert result["answers"] == len(file.read_text().splitlines()) > 0
        assert (result["failed"], result["multi"]["mean"], result["compat"]["multi"]["mean"]) == (0, 0, 0)
        assert list(result["mono"]) == ["visible", "infrared"]
        assert result["frames"] == "of each image"
    reported = json.loads(evaluations[1].with_suffix(".json").read_text())
    assert (reported["step"], reported["answers"]) == (2, result["answers"])
    compared = json.loads(evaluate(ray_job, "compare", *evaluations, "--task", "grounding", "--json"))
    assert (compared["n"], compared["rows"][0]["differences"][1]["mean"]) == (result["n"], 0)
    shown = evaluate(ray_job, "show", rollouts)
    assert shown.count("multi 0 · score ") == num_questions(rollouts)
    page = ray_job.run_dir / "page.html"
    evaluate(ray_job, "show", evaluations[1], "--html", page, "--questions", 3)
    assert page.read_text().count("data:image/") == 6


def num_questions(file: Path) -> int:
    return len({json.loads(line)["prompt_id"] for line in file.read_text().splitlines()})


def test_a_failing_reward_costs_its_samples_alone(workshop: Workshop, tmp_path: Path):
    reward = Path(__file__).with_name("varied_reward.py")
    job = workshop.train(
        tmp_path / "run", *LOCAL, "rollout.engine=hf", f"reward.function='{reward}:sometimes_raises'", "run.num_steps=1"
    )
    assert job.returncode == 0, job.stderr[-3000:]
    (row,) = job.metrics
    assert 0 < row["reward/failed"] < 24
    assert math.isfinite(row["actor/pg_loss"])
    (used,) = json.loads((tmp_path / "run" / "plugins.json").read_text())["reward.function"]
    assert (used["file"], used["function"]) == (str(reward), "sometimes_raises")
    assert used["sha256"] == hashlib.sha256(reward.read_bytes()).hexdigest()


def test_several_updates_of_one_step_use_old_log_probs(workshop: Workshop, tmp_path: Path):
    job = workshop.train(
        tmp_path / "run", *LOCAL, "rollout.engine=hf", "actor.prompts_per_update=1", "run.num_steps=1",
        "algorithm.kl_coefficient=0.01", "actor.learning_rate=0.01",
    )  # fmt: skip
    assert job.returncode == 0, job.stderr[-3000:]
    (row,) = job.metrics
    assert row["actor/ppo_kl"] != 0, "later updates are off-policy"
    assert row["actor/kl_loss"] > 0
    assert row["rollout/logprob_diff_max"] < 1e-4, "compared on the first update only"
