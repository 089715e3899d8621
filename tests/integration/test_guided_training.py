"""Guided groups in real runs: a step of GRPO and of DAPO, with the controls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.workshop import LOCAL, REWARDS, Workshop

UNCOMPARED = ("timing_s/", "perf/")
SMALL = (*LOCAL, "data.eval_files=[]", "evaluation.every=0", "anchor.guide=above_mean", "tracking.rollouts_every=1")


@pytest.mark.parametrize(
    ("algorithm", "packing"),
    [
        ("grpo", "shared_prefix"),
        pytest.param("grpo", "padded", marks=pytest.mark.slow),
        pytest.param("dapo", "shared_prefix", marks=pytest.mark.slow),
    ],
)
def test_a_guided_run(workshop: Workshop, tmp_path: Path, algorithm: str, packing: str):
    settings = (f"algorithm={algorithm}", f"actor.packing={packing}", "actor.prompts_per_update=2")
    if algorithm == "dapo":
        settings += ("algorithm.overlong_buffer_tokens=8", "algorithm.max_rounds=3")
    job = workshop.train(
        tmp_path / "run", *SMALL, *settings, "anchor=mono", "rollout.engine=hf", "anchor.samples_per_view=2"
    )
    assert job.returncode == 0, job.stderr[-3000:]
    rows = job.metrics
    assert sum(row["mars/guide/guests"] for row in rows) > 0
    for row in rows:
        assert row["actor/grad_norm"] > 0
        assert row["rollout/logprob_diff_max"] < 1e-3  # a guest's engine log-probs, of another prompt, would differ
        assert 0 <= row["mars/guide/frac_groups"] <= 1
        if row["mars/guide/guests"]:
            assert row["mars/guide/logprob"] < 0


@pytest.mark.parametrize("engine", ["hf", pytest.param("vllm", marks=pytest.mark.slow), "scripted"])
def test_responses_that_begin_with_a_source(workshop: Workshop, tmp_path: Path, engine: str):
    settings = ("anchor=forced_source", "anchor.forced_start='In {source}:'", f"rollout={engine}")
    small = ("rollout.max_response_tokens=24", "rollout.temperature=1.0", "rollout.top_p=1.0", "run.num_steps=1")
    job = workshop.train(tmp_path / "run", *SMALL, *settings, *small)
    assert job.returncode == 0, job.stderr[-3000:]
    (row,) = job.metrics
    if engine != "scripted":  # which has no log-probs
        assert row["rollout/logprob_diff_max"] < 1e-3
    lines = (tmp_path / "run" / "rollouts" / "step_000001.jsonl").read_text().splitlines()
    forced = [answer for answer in map(json.loads, lines) if answer.get("extra") == "forced_source"]
    assert forced
    for answer in forced:
        assert answer["text"].startswith(f"In {answer['view'][0]}:")
        assert answer["response_tokens"] <= 24


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_its_guests(workshop: Workshop, tmp_path: Path):
    """With dynamic sampling; tests/unit/test_guided_step.py carries guests through a checkpoint."""
    settings = (
        *SMALL, "anchor=mono", "rollout=hf", "algorithm=dapo", "algorithm.overlong_buffer_tokens=8",
        "algorithm.max_rounds=3", "actor.prompts_per_update=3", "data.prompts_per_step=3", "checkpoint.every=1",
        "rollout.samples_per_prompt=2", "anchor.samples_per_view=2", f"reward.function='{REWARDS}:rare'",
    )  # fmt: skip
    whole = workshop.train(tmp_path / "whole", *settings, "run.num_steps=3")
    assert whole.returncode == 0, whole.stderr[-3000:]
    assert sum(row["mars/guide/guests"] for row in whole.metrics) > 0
    first = workshop.train(tmp_path / "parts", *settings, "run.num_steps=2")
    assert first.returncode == 0, first.stderr[-3000:]
    second = workshop.train(tmp_path / "parts", *settings, "run.num_steps=3", "run.resume=true")
    assert second.returncode == 0, second.stderr[-3000:]
    rows = [{k: v for k, v in job.metrics[-1].items() if not k.startswith(UNCOMPARED)} for job in (whole, second)]
    assert rows[0] == rows[1]
