"""Guests that are in no pool: their own advantages, and those of the others, which do not change."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from statistics import stdev

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mars.algorithms.advantages import AdvantageSettings
from mars.algorithms.metrics import method_metrics
from mars.algorithms.pooled_rewards import AnchorViews, PooledRewards
from mars.algorithms.reward_parts import part_advantages
from mars.algorithms.selection import select_prompts
from mars.types import RewardResult
from tests.builders import make_rollouts, with_extra
from tests.unit.algorithms.test_advantages import choices

EXACT = AdvantageSettings("group_norm", True, "mean_and_std", True, 0.0, 0.0)
score = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5, -2.0])


def advantages(item, settings=EXACT):
    return PooledRewards.of_rollouts([item]).advantages(settings)


def outside(item, scores, **facts):
    return with_extra(item, "told", "guest", scores, in_pool=False, **facts)


def test_a_text_that_nobody_reached_by_hand():
    """Pool 0, 0, 0, 0, without a deviation. With the text's 1: mean 1/5, squares 4/25 + 4/25 + ... + 16/25 = 4/5."""
    item = make_rollouts("x", [0.0] * 4)
    found = advantages(outside(item, [1.0]))
    assert found.values.tolist() == [0.0, 0.0, 0.0, 0.0, pytest.approx(1 / sqrt(4 / 5 / 4))]
    assert found.weights.tolist() == [1.0] * 5
    assert (found.mean.tolist(), found.std.tolist()) == ([0.0], [0.0])
    inside = advantages(with_extra(item, "told", "guest", [1.0]))
    assert inside.values.tolist() == pytest.approx([-(1 / 5) / sqrt(1 / 5)] * 4 + [(4 / 5) / sqrt(1 / 5)])


def test_two_texts_beside_a_mixed_pool_by_hand():
    """Pool 1, 0 and the anchor's 0.5: mean 0.5. With the text's 2: 1, 0, 0.5, 2; the other text's 0.5 is the mean."""
    item = outside(make_rollouts("x", [1.0, 0.0], visible=[0.5]), [2.0, 0.5])
    mean = (1 + 0 + 0.5 + 2) / 4
    std = sqrt(((1 - mean) ** 2 + mean**2 + (0.5 - mean) ** 2 + (2 - mean) ** 2) / 3)
    assert advantages(item).values.tolist() == pytest.approx([1.0, -1.0, 1.5 / std, 0.0])
    rloo = replace(EXACT, estimator="leave_one_out", normalize_std=False)
    assert advantages(item, rloo).values.tolist() == [0.75, -0.75, 1.5, 0.0], "the mean of the pool without r_i"
    own = replace(EXACT, pooled_statistics="mean", std_floor=0.1)
    std = sqrt(((1 - 1) ** 2 + (0 - 1) ** 2 + (2 - 1) ** 2) / 2)
    assert advantages(item, own).values.tolist()[2] == pytest.approx(1.5 / std), "the std of the multi rewards 1, 0, 2"


@given(st.lists(score, max_size=6), st.lists(score, max_size=3), st.lists(score, min_size=1, max_size=3), choices)
def test_the_pool_is_as_without_them(multi, anchors, texts, chosen):
    """To the bit: values, statistics, gain and lambda; for every estimator. A text's advantage depends on no other."""
    item = make_rollouts("x", multi, visible=anchors)
    before, after = advantages(item, chosen), advantages(outside(item, texts), chosen)
    assert torch.equal(after.values[: len(multi)], before.values)
    assert torch.equal(after.weights[: len(multi)], before.weights)
    for name in ("defined", "mean", "std", "gain", "multi_share"):
        assert torch.equal(getattr(after, name).nan_to_num(7), getattr(before, name).nan_to_num(7))
    assert after.weights[len(multi) :].tolist() == [float(before.defined)] * len(texts)
    assert not after.values[after.weights == 0].any()
    alone = [advantages(outside(item, [text]), chosen).values[-1] for text in texts]
    assert after.values[len(multi) :].tolist() == pytest.approx([float(value) for value in alone])


@given(st.lists(score, min_size=2, max_size=9), st.floats(-5, 5))
def test_a_text_has_the_sign_of_its_distance_and_a_bounded_size(multi, text):
    value = float(advantages(outside(make_rollouts("x", multi), [text])).values[-1])
    distance = text - sum(multi) / len(multi)
    assert abs(value) <= sqrt(len(multi) + 1) + 1e-9
    if abs(distance) > 1e-6:
        assert value == pytest.approx(distance / stdev([*multi, text]))


def test_metrics_and_selection():
    """Multi 0, 0 and anchors 0: only the text has signal, which keeps the prompt. Statistics are of the others."""
    item = outside(make_rollouts("x", [0.0, 0.0], visible=[0.0]), [1.0])
    rewards = PooledRewards.of_rollouts([item])
    found = rewards.advantages(EXACT)
    assert select_prompts(found, rewards.prompt_index, "nonzero_advantage").keep.tolist() == [True]
    metrics = method_metrics(rewards, AnchorViews.of_rollouts([item]), found)
    assert (metrics["critic/rewards/max"], metrics["mars/gain/mean"], metrics["mars/lambda"]) == (0.0, 0.0, 2 / 3)
    assert (metrics["reward/frac_zero_std"], metrics["mars/conflict_rate"]) == (1.0, 0.0)
    assert metrics["critic/advantages/max"] > 1


def test_parts_leave_it_out_too():
    """Each part has the pool of the others: 1 and 0. What was added to scores is compared with theirs too."""

    def part(value):
        return RewardResult(9.0, 0.0, {"part": value, "overlong_penalty": -value})

    item = outside(make_rollouts("x", [part(1.0), part(0.0)]), [part(0.25)])
    found = part_advantages([item], {"part": 2.0}, EXACT)
    std = stdev([1.0, 0.0, 0.25])
    by_hand = [2 * 0.5 / sqrt(0.5) - 0.5, -2 * 0.5 / sqrt(0.5) + 0.5, 2 * (0.25 - 0.5) / std - (0.25 - 0.5)]
    assert found.values.tolist() == pytest.approx(by_hand)


def test_a_reward_beyond_the_bound_is_refused():
    with pytest.raises(ValueError, match="rewards must be within"):
        advantages(outside(make_rollouts("x", [1.0, 0.0]), [1e7]))
