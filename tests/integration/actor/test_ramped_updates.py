"""A trainer whose settings change from step to step (`ramps`), and a run with several of them on the real engines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.builders import altered
from tests.integration.workshop import Workshop
from tests.tiny_world import GRPO, distance, gradients


def batch_of(world, pictures):
    """Two updates: ratios are 1 in the first one only."""
    prompts = [world.train_prompt(name, pictures[:2], [6, 9, 4]) for name in "ab"]
    return world.batch(prompts, per_update=1)


@pytest.mark.parametrize(
    ("name", "composed", "value"),
    [
        ("kl_coefficient", 0.5, 0.1),
        ("entropy_coefficient", 0.2, 0.05),
        ("clip_high", 0.2, 1e-4),
        ("clip_low", 0.2, 1e-4),
    ],
)
def test_an_update_has_the_value_of_its_step(world, pictures, name, composed, value):
    """Gradients as with this value composed. The learning rate moves ratios by less than 0.2 and by more than 1e-4."""

    def found(setting, batch):
        return gradients(world.trainer(objective=altered(GRPO, **{name: setting}), learning_rate=1e-4), batch)

    plain = batch_of(world, pictures)
    scheduled = replace(plain, settings={f"algorithm.{name}": value, "rollout.samples_per_prompt": 3.0})
    as_composed, ramped, unchanged = found(value, plain), found(composed, scheduled), found(composed, plain)
    assert [distance(a, b) for a, b in zip(ramped, as_composed, strict=True)] == [0.0, 0.0]
    assert distance(ramped[1], unchanged[1]) > 1e-4


RAMPS = """[
{key: rollout.temperature, first: 1.4, last: 0.6, start: 1, steps: 2, shape: linear, slope: null},
{key: rollout.samples_per_prompt, first: 2, last: 4, start: 1, steps: 2, shape: linear, slope: null},
{key: rollout.max_response_tokens, first: 16, last: 8, start: 1, steps: 2, shape: cosine, slope: null},
{key: algorithm.kl_coefficient, first: 0.0, last: 0.1, start: 3, steps: 1, shape: constant, slope: null}]"""


def test_a_run_follows_its_ramps(workshop: Workshop, tmp_path: Path):
    """The trainer's log-probs are the engine's in every step only if both have the step's temperature."""
    job = workshop.train(
        tmp_path / "run", "cluster.kind=local", "rollout.engine=hf", "rollout.num_workers=1", "actor.num_workers=1",
        "data.eval_files=[]", "evaluation.every=0", "reward.num_workers=1", "run.num_steps=3",
        "data.prompts_per_step=2", "actor.prompts_per_update=1", "rollout.samples_per_prompt=4", "anchor=mono",
        "algorithm.kl_coefficient=0.05", "ramps=" + RAMPS.replace("\n", ""),
    )  # fmt: skip
    assert job.returncode == 0, job.stderr[-3000:]
    rows = job.metrics
    assert [row["ramp/rollout.temperature"] for row in rows] == pytest.approx([1.4, 1.0, 0.6])
    assert [row["ramp/algorithm.kl_coefficient"] for row in rows] == [0.0, 0.0, 0.1]
    assert all(row["rollout/logprob_diff_max"] < 1e-3 for row in rows)
    assert rows[0]["actor/entropy"] > rows[1]["actor/entropy"] > rows[2]["actor/entropy"]
    assert [row["actor/kl_loss"] > 0 for row in rows] == [False, False, True]
    longest = [row["response_length/max"] for row in rows]
    assert longest == [16, 12, 8], "random text fills them"
