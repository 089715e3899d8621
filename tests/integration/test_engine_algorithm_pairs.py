"""One step of every algorithm with every kind of anchors on the real engines and a tiny model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tests.integration.algorithm_pairs_job import ALGORITHMS, ANCHORS
from tests.integration.forked import VLLM_RUN
from tests.integration.workshop import LOCAL, run


@pytest.fixture(scope="module")
def metrics(workshop, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs") / "run"
    script = Path(__file__).with_name("algorithm_pairs_job.py")
    job = run([str(script), str(folder), *workshop.overrides(), *LOCAL], folder, VLLM_RUN)
    assert job.returncode == 0, job.stderr[-4000:]
    return json.loads(job.stdout.splitlines()[-1])


@pytest.mark.parametrize("anchor", ANCHORS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_step_of_the_pair(metrics, algorithm, anchor):
    step = metrics[f"{algorithm}/{anchor}"]
    assert all(math.isfinite(value) for value in step.values())
    assert step["rollout/logprob_diff_max"] < 1e-3
    assert step["moved"] > 0
    assert step["actor/grad_norm"] > 0
    assert step["mars/prompts_kept"] >= 1
    if anchor == "none":
        assert step["anchor/tokens"] == step["anchor_groups"] == 0
        assert "mars/gain/mean" not in step
    else:
        assert step["anchor/tokens"] > 0
        assert step["anchor_groups"] == 2 * step["mars/prompts_sampled"]
        assert step["mars/lambda"] == pytest.approx(4 / 6)
    assert ("timing_s/ref" in step) is (algorithm == "rloo")
    assert step["actor/ppo_kl"] == 0  # one update: the old log-probs are its own
    assert 0 < step["rollout/importance_weight/mean"] <= 2.0
