"""`anchor.allocation` on a real engine and trainer: as many rollouts as ever, groups of other sizes, and a resume."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

REWARD = f"{Path(__file__).with_name('varied_reward.py')}:rare"  # right or wrong; one of five is right
SMALL = (
    "anchor=mono", "rollout=hf", "cluster=local", "cluster.device=cpu", "actor.num_workers=1", "reward.num_workers=1",
    "data.prompts_per_step=6", "actor.prompts_per_update=3", "rollout.samples_per_prompt=4", "evaluation.every=0",
    "rollout.max_response_tokens=8", "rollout.max_num_seqs=16", "run.num_steps=2", "checkpoint.every=1",
    "checkpoint.keep_last=2", "tracking.rollouts_every=1", "tracking.rollout_prompts=12",
    "anchor.samples_per_view=2", f"reward.function='{REWARD}'",
)  # fmt: skip
ALGORITHMS = {"grpo": (), "dapo": ("algorithm.overlong_buffer_tokens=4", "algorithm.max_rounds=2")}
UNCOMPARED = ("timing_s/", "perf/")


def results(job):
    """Its rows without times, and the sum of its policy."""
    assert job.returncode == 0, job.stderr[-3000:]
    rows = [{key: value for key, value in row.items() if not key.startswith(UNCOMPARED)} for row in job.metrics]
    return rows, hashlib.sha256((job.run_dir / "policy" / "model.safetensors").read_bytes()).hexdigest()


def multi_texts(job, step):
    """Prompt -> its multi responses in order."""
    found: dict[str, list[str]] = {}
    for line in (job.run_dir / "rollouts" / f"step_{step:06}.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["view"] is None:
            found.setdefault(row["prompt_id"], []).append(row["text"])
    return found


@pytest.mark.parametrize("algorithm", ["grpo", pytest.param("dapo", marks=pytest.mark.slow)])
def test_two_steps_with_conflict_and_a_resume_after_the_first(workshop, tmp_path, algorithm):
    given = (*SMALL, f"algorithm={algorithm}", *ALGORITHMS[algorithm], "anchor.allocation=conflict")
    job = workshop.train(tmp_path / "run", *given)
    whole = results(job)
    sizes: Counter[int] = Counter()
    for row in whole[0]:
        groups = multi_texts(job, row["step"])
        assert len(groups) == row["mars/prompts_sampled"] >= 6
        assert sum(map(len, groups.values())) == 4 * len(groups)
        assert max(map(len, groups.values())) == row["mars/allocation/max_samples"]
        assert row["rollout/logprob_diff_max"] < 1e-3
        assert row["actor/grad_norm"] > 0
        sizes.update(map(len, groups.values()))
    assert any(row["mars/allocation/frac_target"] > 0 for row in whole[0])
    assert min(sizes) == 2 < 4 < max(sizes) <= 16
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_000002")
    assert results(workshop.train(tmp_path / "run", *given, "run.resume=true")) == whole


@pytest.mark.slow
def test_without_targets_the_responses_are_those_of_even(workshop, tmp_path):
    """No anchor is ever right."""
    (tmp_path / "never.py").write_text(
        "def score(data_source, solution_str, ground_truth, extra_info=None): return 0\n"
    )
    jobs = [
        workshop.train(
            tmp_path / how, *SMALL, "run.num_steps=1", f"reward.function='{tmp_path / 'never.py'}:score'",
            f"anchor.allocation={how}",
        )
        for how in ("even", "conflict")
    ]  # fmt: skip
    even, halves = jobs
    (row,), _ = results(halves)
    assert row["mars/allocation/frac_target"] == 0
    assert row["mars/allocation/max_samples"] == 4
    assert multi_texts(halves, 1) == multi_texts(even, 1)
    assert len(multi_texts(even, 1)) == 6
