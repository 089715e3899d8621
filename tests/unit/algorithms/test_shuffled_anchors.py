"""Shuffled anchors: whose they are, what stays, and what happens without a partner."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from mars.algorithms.advantages import AdvantageSettings
from mars.algorithms.anchor_use import AnchorUse
from mars.algorithms.guided_groups import guests, with_candidates
from mars.algorithms.metrics import method_metrics
from mars.algorithms.pooled_rewards import AnchorViews, PooledRewards
from mars.algorithms.shuffled_anchors import with_shuffled_anchors
from mars.types import RewardResult
from tests.builders import make_rollouts

GRPO = AdvantageSettings("group_norm", True, "mean_and_std", True, 0.0, 1e-6)


def rounds_of(number, views=("visible", "infrared")):
    """Prompt i has multi rewards 0 and 0, and one anchor for each view with reward i + 1, text "p<i>"."""
    return [make_rollouts(f"p{i}", [0.0, 0.0], text=f"p{i}", **{v: [i + 1.0] for v in views}) for i in range(number)]


def pool(item):
    return {group.request.view[0]: [r.reward.score for r in group.rollouts] for group in item.pool_anchors}


def shuffled(items, shuffle="reward", guided=False, seed=1, step=1, round=0):
    return with_shuffled_anchors(items, shuffle, guided, seed, step, round)


@given(st.integers(2, 7), st.integers(0, 100), st.integers(1, 5), st.integers(0, 3))
def test_no_prompt_has_its_own_and_each_is_used_once(number, seed, step, round):
    found = shuffled(rounds_of(number), "reward", seed=seed, step=step, round=round)
    given_rewards = [pool(item)["visible"][0] for item in found.rollouts]
    assert sorted(given_rewards) == [i + 1.0 for i in range(number)]
    assert all(reward != i + 1.0 for i, reward in enumerate(given_rewards))
    assert [pool(item)["infrared"][0] for item in found.rollouts] == given_rewards  # both views of the same prompt
    assert found.unshuffled == 0


def test_it_depends_on_seed_step_and_round_and_not_on_the_order_of_the_prompts():
    items = rounds_of(8)
    first = [pool(item) for item in shuffled(items).rollouts]
    assert [pool(item) for item in shuffled(items).rollouts] == first
    assert [pool(item) for item in shuffled(items[::-1]).rollouts[::-1]] == first
    others = [{"seed": 2}, {"step": 2}, {"round": 1}]
    assert all([pool(item) for item in shuffled(items, **other).rollouts] != first for other in others)


def test_the_anchors_and_what_metrics_make_of_them_stay():
    items = rounds_of(3)
    found = shuffled(items).rollouts
    assert [item.anchors for item in found] == [item.anchors for item in items]
    rewards = PooledRewards.of_rollouts(found)
    metrics = method_metrics(rewards, AnchorViews.of_rollouts(found), rewards.advantages(GRPO))
    assert metrics["mars/gain/mean"] == -2.0
    assert metrics["mars/anchor/visible/mean"] == 2.0
    assert metrics["mars/lambda"] == 0.5


def test_the_advantages_are_those_of_the_rewards_that_were_given():
    """p0 and p1 swap: p0's pool is 0, 0, 2, 2, whose mean is 1 and whose std is sqrt(4 / 3)."""
    found = shuffled(rounds_of(2)).rollouts
    advantages = PooledRewards.of_rollouts(found).advantages(replace(GRPO, epsilon=0.0))
    assert [round(value, 4) for value in advantages.values.tolist()] == [-0.866] * 4
    assert [round(value, 4) for value in advantages.mean.tolist()] == [1.0, 0.5]


def test_a_prompt_without_a_partner_has_no_anchors_in_its_pool():
    """A round of one prompt, as dynamic sampling has; and a view that one prompt of a round alone has."""
    found = shuffled(rounds_of(1))
    assert found.unshuffled == 1
    assert found.rollouts[0].pool_anchors == ()
    plain = PooledRewards.of_rollouts([make_rollouts("p0", [0.0, 0.0])]).advantages(GRPO)
    assert PooledRewards.of_rollouts(found.rollouts).advantages(GRPO).values.tolist() == plain.values.tolist()

    items = [make_rollouts("a", [0.0], visible=[1.0], depth=[3.0]), make_rollouts("b", [0.0], visible=[2.0])]
    found = shuffled(items)
    assert [pool(item) for item in found.rollouts] == [{"visible": [2.0]}, {"visible": [1.0]}]
    assert found.unshuffled == 1


def test_rows_without_anchors_take_no_part_and_are_not_counted():
    found = shuffled([make_rollouts("a", [0.0, 1.0]), *rounds_of(2)])
    assert found.unshuffled == 0
    assert found.rollouts[0].pool_anchors == ()


def test_fewer_rewards_are_repeated_and_failed_ones_stay_failed():
    items = [make_rollouts("a", [0.0], visible=[1.0, 2.0, 3.0]), make_rollouts("b", [0.0], visible=[5.0, None])]
    first, second = shuffled(items).rollouts
    assert [rollout.reward.score for rollout in first.pool_anchors[0].valid] == [5.0, 5.0]
    assert pool(second) == {"visible": [1.0, 2.0]}


def everything(item, group, rollout):
    return True


def guided(shuffle, number=2):
    use = AnchorUse(everything, shuffle)
    return use.applied(with_candidates(rounds_of(number)), 1, 1, 0)


def test_reward_makes_guests_of_own_responses_with_the_rewards_of_others():
    items, counts = guided("reward")
    assert [[(r.text, r.reward.score) for r in guests(item)] for item in items] == [
        [("p0", 2.0)] * 2,
        [("p1", 1.0)] * 2,
    ]
    assert counts.unshuffled == 0
    assert all(item.pool_anchors == () for item in items)


def test_both_makes_guests_of_the_responses_of_others():
    items, _ = guided("both")
    assert [[(r.text, r.reward.score) for r in guests(item)] for item in items] == [
        [("p1", 2.0)] * 2,
        [("p0", 1.0)] * 2,
    ]
    assert [{r.prompt_id for r in guests(item)} for item in items] == [{"p0"}, {"p1"}]  # trained with this prompt
    assert [len(item.anchors[0].rollouts[0].completion.token_ids) for item in items] == [1, 1]


def test_a_guest_with_the_reward_of_another_is_right_only_if_its_own_answer_is():
    """x: all wrong, its anchor too; y: all right. With y's reward the anchor of x is a guest, and still wrong."""
    wrong, right = RewardResult(0.0, 0.0, {}), RewardResult(1.0, 1.0, {})
    better, both = RewardResult(0.0, 1.0, {}), [RewardResult(1.0, 0.0, {})]
    for own, expected in ((wrong, 0.0), (better, 1.0)):
        items = [make_rollouts("x", [wrong] * 2, visible=[own]), make_rollouts("y", [right] * 2, visible=both)]
        use = AnchorUse(everything, "reward")
        found, counts = use.applied(with_candidates(items), 1, 1, 0)
        assert [len(guests(item)) for item in found] == [1, 0]
        assert use.metrics(found, counts)["mars/guide/rescued"] == expected
        others = AnchorUse(everything, "both")
        assert "mars/guide/rescued" not in others.metrics(*others.applied(with_candidates(items), 1, 1, 0))


def test_a_prompt_alone_has_no_guests_and_is_counted():
    items, counts = guided("both", number=1)
    assert guests(items[0]) == ()
    assert counts.unshuffled == 1
    assert AnchorUse(everything, "both").metrics(items, counts)["mars/anchors_unshuffled"] == 1.0
