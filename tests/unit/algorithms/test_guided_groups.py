"""Guided groups by hand: who is a guest, what the pool is, what metrics count."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mars.algorithms.advantages import AdvantageSettings
from mars.algorithms.guided_groups import GUIDE, guests, guide_metrics, with_candidates, with_guests
from mars.algorithms.metrics import method_metrics
from mars.algorithms.pooled_rewards import AnchorViews, PooledRewards, with_advantages
from mars.algorithms.tolerance import SCORE_TOLERANCE
from mars.types import RewardResult
from tests.builders import make_rollouts, with_extra

GRPO = AdvantageSettings("group_norm", True, "mean_and_std", True, 0.0, 1e-6)
EXACT = replace(GRPO, epsilon=0.0)


def everything(item, group, rollout):
    return True


def nothing(item, group, rollout):
    return False


def guided(item, allowed=everything):
    return with_guests(with_candidates([item]), allowed).rollouts[0]


def values(item, settings=EXACT):
    return PooledRewards.of_rollouts([item]).advantages(settings).values.tolist()


def test_one_guest_by_hand():
    """Multi 0, 0, 0, 1, anchors 1 and 0. The pool is 0, 0, 0, 1, 1: mean 0.4, squares 3 * 0.16 + 2 * 0.36 = 1.2,
    std sqrt(0.3) = 0.5477."""
    item = guided(make_rollouts("p", [0.0, 0.0, 0.0, 1.0], visible=[1.0], infrared=[0.0]))
    assert values(item) == pytest.approx([-0.7303, -0.7303, -0.7303, 1.0954, 1.0954], abs=1e-4)
    (group,) = item.extras
    assert (group.request.view, group.request.num_samples, group.request.extra.name) == (("visible",), 1, GUIDE)
    assert [rollout.reward.score for rollout in guests(item)] == [1.0]
    assert item.trained == (*item.multi.rollouts, *group.rollouts)


def test_the_other_anchors_leave_the_pool():
    """Multi 0, 0, 0, 0, anchors 1 and 0: the pool is 0, 0, 0, 0, 1, mean 0.2, std sqrt(0.2) = 0.4472. With the anchor
    of 0 in it the mean would be 1/6 and the std sqrt(1/6): -0.408 instead of -0.447."""
    item = make_rollouts("p", [0.0] * 4, visible=[1.0], infrared=[0.0])
    assert values(guided(item)) == pytest.approx([-0.4472] * 4 + [1.7889], abs=1e-4)
    assert values(item) == pytest.approx([-0.4082] * 4, abs=1e-4)


scores = st.lists(st.sampled_from([0.0, 0.25, 0.3, 1.0, 1.75]), min_size=1, max_size=6)


@given(scores, scores, st.booleans())
def test_without_guests_it_is_plain_grpo_to_the_bit(multi, anchors, refuse):
    below = [score - 2 for score in anchors]
    item = make_rollouts("p", multi, visible=anchors if refuse else below)
    plain = make_rollouts("p", multi)
    found = guided(item, nothing if refuse else everything)
    assert found.extras == ()
    for settings in (GRPO, replace(GRPO, estimator="leave_one_out", normalize_std=False), replace(GRPO, std_floor=0.2)):
        assert values(found, settings) == values(plain, settings)


@given(scores, scores)
def test_guests_are_the_anchors_above_the_mean(multi, anchors):
    item = guided(make_rollouts("p", multi, visible=anchors))
    mean = sum(multi) / len(multi)
    assert [rollout.reward.score for rollout in guests(item)] == [s for s in anchors if s - mean > 1e-6]
    members = [*multi, *(rollout.reward.score for rollout in guests(item))]
    if len(members) > 1 and max(members) - min(members) > 1e-6:
        pool = torch.tensor(members, dtype=torch.float64)
        assert values(item) == pytest.approx(((pool - pool.mean()) / pool.std()).tolist(), abs=1e-9)


def test_a_difference_of_rounding_makes_no_guest():
    for score, is_guest in ((0.3, False), (0.3 + SCORE_TOLERANCE / 2, False), (0.3 + 2 * SCORE_TOLERANCE, True)):
        item = guided(make_rollouts("p", [0.1, 0.5], visible=[score]))
        assert bool(guests(item)) is is_guest


def test_a_guest_may_have_a_negative_advantage():
    """Multi 0, 0, 0, anchors 0.2 and 1: both are guests; the pool's mean is 0.24, above 0.2."""
    item = guided(make_rollouts("p", [0.0, 0.0, 0.0], visible=[0.2], infrared=[1.0]))
    found = values(item)
    assert found[3] < 0 < found[4]
    assert all(group.request.extra.bounded for group in item.extras)


def test_failed_responses_are_no_guests_and_no_guest_comes_without_a_multi_reward():
    item = guided(make_rollouts("p", [0.0, None, 0.0], visible=[None, 1.0]))
    assert [rollout.index for rollout in guests(item)] == [1]
    alone = guided(make_rollouts("p", [None, None], visible=[1.0, 0.5]))
    assert guests(alone) == ()
    assert alone.trained == ()


def test_the_filter_is_asked_about_those_above_the_mean_alone():
    asked = []

    def allowed(item, group, rollout):
        asked.append((group.request.view, rollout.reward.score))
        return rollout.reward.score < 1

    found = with_guests(with_candidates([make_rollouts("p", [0.0, 0.5], visible=[1.0], infrared=[0.5, 0.1])]), allowed)
    assert asked == [(("visible",), 1.0), (("infrared",), 0.5)]
    assert found.refused == 1
    assert [group.request.view for group in found.rollouts[0].extras] == [("infrared",)]


def test_a_guest_of_a_recipe_stays_and_does_not_count_in_the_mean_that_guests_must_exceed():
    """The mean of the multi rewards is 0.25; with the recipe's guest of 1 it would be 0.5. The pool has 0, 0.5, 1, 0.4:
    mean 0.475."""
    item = guided(with_extra(make_rollouts("p", [0.0, 0.5], visible=[0.4]), "truth", "guest", [1.0]))
    assert [group.request.extra.name for group in item.extras] == ["truth", GUIDE]
    pool = torch.tensor([0.0, 0.5, 1.0, 0.4], dtype=torch.float64)
    assert values(item) == pytest.approx(((pool - pool.mean()) / pool.std()).tolist())


def test_one_guided_prompt_does_not_change_another():
    one = guided(make_rollouts("p", [0.0, 0.0, 1.0], visible=[1.0], infrared=[0.0]))
    plain = make_rollouts("q", [0.0, 0.5], visible=[0.7])  # of a run that was resumed with another anchor.guide
    both = with_advantages([one, plain], PooledRewards.of_rollouts([one, plain]).advantages(GRPO))
    assert list(both[0].advantages) == values(one, GRPO)
    assert list(both[1].advantages) == values(plain, GRPO)


def test_metrics_compare_multi_rewards_with_all_anchors():
    """Multi 0, 0, 1 (mean 1/3), visible 1 (a guest), infrared 0: gain 1/3 - 1/2; lambda 3 of the 4 in the pool; the
    rewards are those of the multi rollouts, and visible beats them."""
    item = guided(make_rollouts("p", [0.0, 0.0, 1.0], visible=[1.0], infrared=[0.0]))
    rewards = PooledRewards.of_rollouts([item])
    metrics = method_metrics(rewards, AnchorViews.of_rollouts([item]), rewards.advantages(EXACT))
    assert metrics["mars/gain/mean"] == pytest.approx(1 / 3 - 1 / 2)
    assert metrics["mars/lambda"] == 0.75
    assert metrics["critic/rewards/mean"] == pytest.approx(1 / 3)
    assert metrics["mars/conflict_rate"] == 1.0
    assert (metrics["mars/anchor/visible/mean"], metrics["mars/anchor/infrared/mean"]) == (1.0, 0.0)
    assert metrics["critic/advantages/mean"] == pytest.approx(0)  # of all four, guests included
    assert metrics["mars/frac_zero_signal"] == 0.0


def test_equal_multi_rewards_are_counted_as_such_beside_a_guest():
    item = guided(make_rollouts("p", [0.0, 0.0], visible=[1.0]))
    rewards = PooledRewards.of_rollouts([item])
    metrics = method_metrics(rewards, AnchorViews.of_rollouts([item]), rewards.advantages(EXACT))
    assert metrics["reward/frac_zero_std"] == 1.0
    assert metrics["mars/frac_zero_signal"] == 0.0


def test_metrics_of_guests_by_hand():
    """p: all wrong, a right guest. q: all wrong, a wrong guest of higher score. r: right already, a better guest.
    s: no guest, all wrong. Accuracies of 0.5 and more are right, scores decide who is a guest."""
    wrong, better, right = (RewardResult(s, a, {}) for s, a in ((0.0, 0.0), (0.25, 0.499), (1.0, 0.5)))
    best = RewardResult(1.5, 1.0, {})
    items = [
        guided(make_rollouts("p", [wrong, wrong], visible=[right])),
        guided(make_rollouts("q", [wrong, wrong], visible=[better])),
        guided(make_rollouts("r", [wrong, right], visible=[best])),
        guided(make_rollouts("s", [wrong, better], visible=[wrong])),
    ]
    assert guide_metrics(items, refused=2) == {
        "mars/guide/guests": 3.0,
        "mars/guide/refused": 2.0,
        "mars/guide/frac_groups": 0.75,
        "mars/guide/rescued": pytest.approx(1 / 3),
    }
    assert guide_metrics([], refused=0) == {"mars/guide/guests": 0.0, "mars/guide/refused": 0.0}
