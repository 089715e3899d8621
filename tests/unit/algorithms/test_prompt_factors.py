"""The share of right responses of a prompt, and advantages times a factor for each prompt."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mars.algorithms.pooled_rewards import PooledRewards
from mars.algorithms.prompt_factors import is_right, right_share, scaled
from mars.types import RewardResult
from tests.builders import make_rollouts, with_extra
from tests.fakes.step import GRPO


def accuracies(*values):
    """Rewards with these accuracies; None fails."""
    return [None if value is None else RewardResult(0.0, value, {}) for value in values]


def test_right_is_an_accuracy_of_right_from_or_more():
    rollouts = make_rollouts("a", accuracies(0.0, 0.49, 0.5, 1.0, None)).multi.rollouts
    assert [is_right(rollout, 0.5) for rollout in rollouts] == [False, False, True, True, False]
    assert [is_right(rollout, 0.6) for rollout in rollouts] == [False, False, False, True, False]


@pytest.mark.parametrize(
    ("multi", "share"),
    [([1.0, 0.0, 0.0, 0.0], 0.25), ([1.0, None], 1.0), ([0.0, None, 1.0], 0.5), ([None], None), ([0.3, 0.6], 0.5)],
)
def test_the_share_is_of_the_valid_multi_responses(multi, share):
    item = make_rollouts("a", accuracies(*multi), s0=accuracies(1.0, 1.0))
    assert right_share(with_extra(item, "guest", "guest", accuracies(1.0)), 0.5) == share


def test_the_right_share_counts_valid_multi_responses_alone():
    item = make_rollouts("p", accuracies(1.0, 0.5, 0.49, None), s0=accuracies(1.0, 1.0))
    assert right_share(item, 0.5) == 2 / 3
    assert right_share(item, 0.6) == 1 / 3
    assert right_share(make_rollouts("p", [None, None], s0=accuracies(1.0)), 0.5) is None


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(0, 2), st.integers(-8, 8).map(lambda eighths: eighths / 8)), max_size=5
    )
)
def test_each_response_gets_the_factor_of_its_prompt(groups):
    kept = [
        with_extra(make_rollouts(f"p{i}", [float(k) for k in range(multi)]), "guest", "guest", [0.5] * guests)
        for i, (multi, guests, _) in enumerate(groups)
    ]
    base = PooledRewards.of_rollouts(kept).advantages(GRPO)
    found = scaled(base, kept, [factor for *_, factor in groups])
    rows = [factor for multi, guests, factor in groups for _ in range(multi + guests)]
    assert found.values.tolist() == [value * factor for value, factor in zip(base.values.tolist(), rows, strict=True)]
    assert torch.equal(found.weights, base.weights)
