"""Guided groups in real runs: a step of GRPO and of DAPO, with the controls."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.workshop import LOCAL, Workshop

SMALL = (*LOCAL, "data.eval_files=[]", "evaluation.every=0", "anchor.guide=above_mean", "tracking.rollouts_every=1")


@pytest.mark.parametrize(
    ("algorithm", "packing"), [("grpo", "shared_prefix"), ("grpo", "padded"), ("dapo", "shared_prefix")]
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
