"""`schedule=asynchronous` as a user starts it: responses are one version old, and a resumed run computes the same."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

SMALL = (
    "schedule=asynchronous", "rollout=hf", "data.prompts_per_step=2", "actor.prompts_per_update=2",
    "rollout.samples_per_prompt=2", "rollout.max_response_tokens=8", "run.num_steps=3", "checkpoint.every=2",
    "actor.num_workers=1", "cluster.object_store_bytes=100000000",
    # The trainer scores what is sampled beside its update, with a reference model that changes in every update.
    f"recipe.shaping=['{Path(__file__).with_name('asking_shaping.py')}:Likelihood']",
    "algorithm.reference_decay=0.5", "algorithm.reference_every=1",
)  # fmt: skip
UNCOMPARED = ("timing_s/", "perf/")


def results(job):
    """Its rows without times, and the sum of its policy."""
    assert job.returncode == 0, job.stderr[-3000:]
    rows = [{key: value for key, value in row.items() if not key.startswith(UNCOMPARED)} for row in job.metrics]
    return rows, hashlib.sha256((job.run_dir / "policy" / "model.safetensors").read_bytes()).hexdigest()


def test_responses_are_one_version_old_and_a_resumed_run_has_what_was_sampled_ahead(workshop, tmp_path):
    whole = results(workshop.train(tmp_path / "run", *SMALL))
    assert [row["rollout/staleness_max"] for row in whole[0]] == [0, 1, 1]
    assert all(-40 < row["reward/likelihood/mean"] < 0 for row in whole[0])
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_000003")
    resumed = workshop.train(tmp_path / "run", *SMALL, "run.resume=true")
    assert results(resumed) == whole
    log = (tmp_path / "run" / "mars.log").read_text()
    assert log.count("resuming after step 2 ") == 1
