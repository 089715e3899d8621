"""What each shipped algorithm is to the trainer."""

from __future__ import annotations

import math

import pytest

from mars.build import _objective_settings
from mars.config.load import load_config

REQUIRED = ["model.path=a/model", "data.train_files=['x.parquet']", "reward.function=vqa", "run.num_steps=1"]


def objective(*overrides):
    return _objective_settings(load_config("train", [*REQUIRED, *overrides], []))


@pytest.mark.parametrize(
    ("algorithm", "kind", "low", "high", "reduction", "kl", "in_loss"),
    [
        ("grpo", "clip", 0.2, 0.2, "token_mean", 0.001, True),
        ("dapo", "clip", 0.2, 0.28, "token_mean", 0.0, False),
        ("dr_grpo", "clip", 0.2, 0.2, "seq_mean_token_sum_norm", 0.0, False),
        ("rloo", "clip", 0.2, 0.2, "seq_mean_token_sum", 0.001, False),
        ("gspo", "gspo", 3e-4, 4e-4, "seq_mean_token_mean", 0.0, False),
        ("cispo", "cispo", 1.0, 4.0, "token_mean", 0.0, False),
    ],
)
def test_presets(algorithm, kind, low, high, reduction, kl, in_loss):
    made = objective(f"algorithm={algorithm}")
    loss = made.policy_loss
    assert (loss.kind, loss.clip_low, loss.clip_high) == (kind, low, high)
    assert loss.dual_clip == (10.0 if algorithm == "dapo" else None)
    assert (made.reduction, made.kl_coefficient, made.kl_in_loss) == (reduction, kl, in_loss)
    assert made.reduction_tokens == (None if algorithm != "dr_grpo" else objective_tokens())
    assert (made.entropy_coefficient, made.importance_cap, made.kl_reference) == (0.0, None, "a/model")


def objective_tokens():
    return load_config("train", REQUIRED, []).rollout.max_response_tokens


def test_every_setting_arrives():
    made = objective(
        "algorithm.entropy_coefficient=0.01", "algorithm.importance_cap=2.0", "algorithm.kl_reference=b/start",
        "algorithm.kl_coefficient=0.5", "algorithm.kl_placement=reward", "algorithm.kl_estimator=k1",
        "rollout.top_p=0.9",
    )  # fmt: skip
    assert (made.entropy_coefficient, made.importance_cap) == (0.01, 2.0)
    assert (made.kl_reference, made.kl_estimator, made.kl_placement) == ("b/start", "k1", "reward")
    assert (made.kl_coefficient, made.kl_in_loss) == (0.5, False)
    assert made.truncation_nats == pytest.approx(-math.log(0.9))
