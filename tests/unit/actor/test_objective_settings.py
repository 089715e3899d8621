"""What each shipped algorithm is to the trainer."""

from __future__ import annotations

import pytest

from mars.actor.objective import Objective
from mars.config.load import load_config

REQUIRED = ["model.path=a/model", "data.train_files=['x.parquet']", "reward.function=vqa", "run.num_steps=1"]


def config(*overrides):
    return load_config("train", [*REQUIRED, *overrides], [])


@pytest.mark.parametrize(
    ("algorithm", "loss", "low", "high", "reduction", "kl", "in_loss"),
    [
        ("grpo", "clip", 0.2, 0.2, "token_mean", 0.001, True),
        ("dapo", "clip", 0.2, 0.28, "token_mean", 0.0, False),
        ("dr_grpo", "clip", 0.2, 0.2, "seq_mean_token_sum_norm", 0.0, False),
        ("rloo", "clip", 0.2, 0.2, "seq_mean_token_sum", 0.001, False),
        ("gspo", "gspo", 3e-4, 4e-4, "seq_mean_token_mean", 0.0, False),
        ("cispo", "cispo", 1.0, 4.0, "token_mean", 0.0, False),
    ],
)
def test_presets(algorithm, loss, low, high, reduction, kl, in_loss):
    whole = config(f"algorithm={algorithm}")
    made = whole.algorithm
    assert (made.loss, made.clip_low, made.clip_high) == (loss, low, high)
    assert made.dual_clip == (10.0 if algorithm == "dapo" else None)
    assert (made.reduction, made.kl_coefficient) == (reduction, kl)
    assert Objective(made, truncation_nats=0.0).kl_in_loss is in_loss
    assert made.reduction_tokens == (None if algorithm != "dr_grpo" else whole.rollout.max_response_tokens)
    assert (made.entropy_coefficient, made.importance_cap, made.kl_reference) == (0.0, None, "a/model")


@pytest.mark.parametrize(
    ("algorithm", "coefficient", "in_loss"),
    [("grpo", 0.5, True), ("rloo", 0.5, False), ("grpo", 0.0, False), ("rloo", 0.0, False)],
)
def test_the_kl_is_in_the_loss_or_in_the_reward(algorithm, coefficient, in_loss):
    """The KL of rloo is subtracted from the rewards."""
    made = config(f"algorithm={algorithm}", f"algorithm.kl_coefficient={coefficient}").algorithm
    assert Objective(made, truncation_nats=0.0).kl_in_loss is in_loss
