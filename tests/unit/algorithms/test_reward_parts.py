"""Advantages from parts of the reward, each normalised by itself over multi rollouts and anchors (GDPO)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.algorithms.advantages import AdvantageSettings
from mars.algorithms.penalties import OverlongPenalty, with_kl_penalty, with_overlong_penalty
from mars.algorithms.pooled_rewards import PooledRewards, with_advantages
from mars.algorithms.reward_parts import batch_normalized, part_advantages
from mars.algorithms.selection import select_prompts
from mars.errors import ConfigError
from mars.types import MAX_SCORE, RewardResult, SampledPrompt
from tests.builders import make_rollouts, with_extra
from tests.examples import examples

EXACT = AdvantageSettings("group_norm", True, "mean_and_std", True, 0.0, 1e-300)


def parts(**values):
    """A result with these parts, whose score is their sum."""
    return RewardResult(sum(values.values()), 0.0, values)


def ab(*pairs):
    return [None if pair is None else parts(a=pair[0], b=pair[1]) for pair in pairs]


def normalized(prompts, weights, how=EXACT):
    return batch_normalized(with_advantages(prompts, part_advantages(prompts, weights, how)), how)


def test_by_hand_with_anchors():
    """Pool of a: 1, 0, 0.5, 0.5; of b: 0, 0.5, 0.5, 1: each with mean 0.5 and std sqrt(0.5 / 3) = 0.40825."""
    item = make_rollouts("p", ab((1, 0), (0, 0.5)), s0=ab((0.5, 0.5)), s1=ab((0.5, 1)))
    found = part_advantages([item], {"a": 1.0, "b": 0.5}, EXACT)
    one = 0.5 / math.sqrt(0.5 / 3)
    assert found.values.tolist() == pytest.approx([one - 0.5 * one, -one])
    assert found.weights.tolist() == [1, 1]
    # The other statistics are the score's: 1, 0.5 against 1, 1.5.
    assert found.gain.tolist() == pytest.approx([0.75 - 1.25])
    assert found.mean.tolist() == pytest.approx([1.0])


def test_combinations_with_one_sum_are_told_apart():
    """Scores 1, 1, 2, 0: the sum makes the first two equal; with b at half weight they differ."""
    item = make_rollouts("p", ab((1, 0), (0, 1), (1, 1), (0, 0)))
    summed = PooledRewards.of_rollouts([item]).advantages(EXACT).values.tolist()
    assert summed[0] == summed[1] == 0
    one = 0.5 / math.sqrt(1 / 3)
    found = part_advantages([item], {"a": 1.0, "b": 0.5}, EXACT).values.tolist()
    assert found == pytest.approx([0.5 * one, -0.5 * one, 1.5 * one, -1.5 * one])


def test_the_scale_of_a_part_does_not_matter():
    small = make_rollouts("p", ab((1, 0), (0, 1), (0.5, 1)), s0=ab((0, 0)))
    large = make_rollouts("p", ab((1, 0), (0, 1000), (0.5, 1000)), s0=ab((0, 0)))
    weights = {"a": 1.0, "b": 0.3}
    found = [part_advantages([item], weights, EXACT).values.tolist() for item in (small, large)]
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_a_part_that_is_equal_everywhere_has_no_influence():
    item = make_rollouts("p", ab((1, 0.3), (0, 0.3)), s0=ab((0.5, 0.3)))
    alone = part_advantages([item], {"a": 1.0}, EXACT).values
    assert part_advantages([item], {"a": 1.0, "b": 7.0}, EXACT).values.tolist() == alone.tolist()
    flat = make_rollouts("q", ab((0.1 + 0.2, 1), (0.3, 1)), s0=ab((0.3, 1)))
    assert part_advantages([flat], {"a": 1.0, "b": 1.0}, EXACT).values.tolist() == [0, 0]


def test_parts_that_cancel_out_are_no_signal():
    """b falls as a rises. Divided by the std each is the other's negative, up to rounding."""
    item = make_rollouts("p", ab((0.1, 0.7), (0.3, 0.1), (0.2, 0.4)))
    found = part_advantages([item], {"a": 1.0, "b": 1.0}, EXACT)
    assert found.values.tolist() == [0, 0, 0]
    index = PooledRewards.of_rollouts([item]).prompt_index
    assert select_prompts(found, index, "nonzero_advantage").keep.tolist() == [False]
    assert select_prompts(found, index, "all").keep.tolist() == [True]


def test_one_part_is_the_plain_advantage():
    items = [make_rollouts("p", ab((1, 0), (0.25, 0), None), s0=ab((0.5, 0))), make_rollouts("q", ab((1, 0)))]
    for estimator in ("group_norm", "leave_one_out"):
        for pooled in ("mean_and_std", "mean"):
            how = AdvantageSettings(estimator, True, pooled, False, 0.1, 1e-6)
            plain = PooledRewards.of_rollouts(items).advantages(how)
            found = part_advantages(items, {"a": 1.0}, how)
            for name, value in vars(plain).items():
                assert getattr(found, name).tolist() == pytest.approx(value.tolist(), nan_ok=True), name


numbers = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(-3, 3).map(lambda x: round(x, 3)))
rollout = st.one_of(st.none(), st.tuples(numbers, numbers))


@given(
    st.lists(
        st.tuples(st.lists(rollout, min_size=1, max_size=5), st.lists(rollout, max_size=3)), min_size=1, max_size=5
    ),
    st.sampled_from([(1.0, 0.5), (2.0, -1.0), (0.25, 4.0)]),
    st.booleans(),
)
@examples(150)
def test_against_numpy(prompts, weights, unbiased):
    how = AdvantageSettings("group_norm", True, "mean_and_std", unbiased, 0.0, 1e-6)
    items = [make_rollouts(f"p{i}", ab(*multi), s0=ab(*anchors)) for i, (multi, anchors) in enumerate(prompts)]
    wanted = []
    for multi, anchors in prompts:
        valid = [pair for pair in multi if pair is not None]
        pool = [*valid, *(pair for pair in anchors if pair is not None)]
        values = np.array(pool, dtype=float).reshape(-1, 2)
        sums = np.zeros(len(valid))
        if len(pool) >= 2:
            for k in (0, 1):
                deviation = values[: len(valid), k] - values[:, k].mean()
                if np.ptp(values[:, k]) > 0:
                    sums += weights[k] * deviation / (values[:, k].std(ddof=int(unbiased)) + 1e-6)
        wanted += sums.tolist()
    found = part_advantages(items, {"a": weights[0], "b": weights[1]}, how).values.tolist()
    assert found == pytest.approx(wanted, rel=1e-9, abs=2e-9)


@given(st.lists(st.lists(st.tuples(numbers, numbers), min_size=4, max_size=4), min_size=2, max_size=5))
@examples(100)
def test_without_anchors_it_is_gdpo(prompts):
    """The paper's formula, batch mean and unbiased batch standard deviation included."""
    epsilon = 1e-4
    how = AdvantageSettings("group_norm", True, "mean_and_std", True, 0.0, epsilon)
    values = np.array(prompts, dtype=float)  # [prompt, rollout, part]
    each = (values - values.mean(1, keepdims=True)) / (values.std(1, ddof=1, keepdims=True) + epsilon)
    summed = each @ np.array([1.0, 0.5])
    wanted = (summed - summed.mean()) / (summed.std(ddof=1) + epsilon)
    items = [make_rollouts(f"p{i}", ab(*pairs)) for i, pairs in enumerate(prompts)]
    kept, scale = normalized(items, {"a": 1.0, "b": 0.5}, how)
    found = np.array([item.advantages for item in kept])
    assert scale == pytest.approx(summed.std(ddof=1), abs=1e-8)
    assert found == pytest.approx(wanted, rel=1e-6, abs=1e-6)


def test_the_information_gain_is_not_subtracted():
    """Two prompts whose anchors are all worse: every advantage is positive, before and after the batch."""
    items = [make_rollouts(name, ab((1, 1), (1, 1)), s0=ab((0, 0.5))) for name in "pq"]
    before = part_advantages(items, {"a": 1.0, "b": 1.0}, EXACT).values
    assert before.tolist() == pytest.approx([2 / math.sqrt(3)] * 4)  # (1 - 2/3) / sqrt(1/3) for each part
    kept, scale = normalized(items, {"a": 1.0, "b": 1.0})
    assert scale == pytest.approx(2 / math.sqrt(3) * math.sqrt(4 / 3))
    assert [a for item in kept for a in item.advantages] == pytest.approx([math.sqrt(3 / 4)] * 4)


# --- penalties


def test_the_overlong_penalty_is_centred_over_the_pool_and_added():
    """Rollout k has k + 1 tokens; limit 4, buffer 2, factor 1: penalties 0, 0, -0.5 and, of the anchor, 0."""
    item = make_rollouts("p", ab((1, 0), (0, 0), (1, 0)), s0=ab((0, 0)))
    (punished,) = with_overlong_penalty([item], OverlongPenalty(4, 2, 1.0))
    plain = part_advantages([item], {"a": 2.0}, EXACT).values
    found = part_advantages([punished], {"a": 2.0}, EXACT).values
    assert (found - plain).tolist() == pytest.approx([0.125, 0.125, -0.375])
    twice = part_advantages(with_overlong_penalty([item], OverlongPenalty(4, 2, 2.0)), {"a": 2.0}, EXACT).values
    assert (twice - plain).tolist() == pytest.approx([0.25, 0.25, -0.75])  # its size stays what its factor says


def test_the_kl_penalty_is_added_to_it_and_may_be_the_only_signal():
    item = make_rollouts("p", ab((1, 0), (1, 0)), s0=ab((1, 0)))
    (punished,) = with_kl_penalty([item], [(1.0, 3.0), (2.0,)], coefficient=0.25)
    assert part_advantages([punished], {"a": 1.0}, EXACT).values.tolist() == pytest.approx([0.25, -0.25])
    both = with_overlong_penalty([punished], OverlongPenalty(2, 1, 1.0))  # 0, -1 and, of the anchor, 0
    values = part_advantages(both, {"a": 1.0}, EXACT).values.tolist()
    assert values == pytest.approx([0.25 + 1 / 3, -0.25 - 2 / 3])


def test_leave_one_out_takes_the_penalty_against_the_others():
    item = make_rollouts("p", ab((1, 0), (1, 0)))
    (punished,) = with_kl_penalty([item], [(1.0, 3.0)], coefficient=0.5)
    how = replace(EXACT, estimator="leave_one_out")
    assert part_advantages([punished], {"a": 1.0}, how).values.tolist() == pytest.approx([1.0, -1.0])


def test_a_prompt_without_weight_has_no_penalty_either():
    """One multi rollout, and a divisor that is the std of the multi rollouts: no statistics, so weight 0."""
    item = make_rollouts("p", ab((1, 0)), s0=ab((0, 0)))
    (punished,) = with_kl_penalty([item], [(1.0,), (3.0,)], coefficient=0.5)
    found = part_advantages([punished], {"a": 1.0}, replace(EXACT, pooled_statistics="mean"))
    assert (found.values.tolist(), found.weights.tolist()) == ([0.0], [0.0])


# --- what is refused, and what is left out


@pytest.mark.parametrize(
    ("item", "view"),
    [
        (make_rollouts("p7", [parts(a=1.0, b=0.0), parts(a=1.0)]), "multi"),
        (make_rollouts("p7", ab((1, 0)), s0=[parts(a=1.0)]), "s0"),
        (with_extra(make_rollouts("p7", ab((1, 0))), "told", "guest", [parts(a=1.0)]), "extra request told"),
    ],
)
def test_a_part_that_a_rollout_lacks_is_named(item, view):
    where = rf"a response to rows\.jsonl:p7 \({view}\)"
    with pytest.raises(
        ConfigError, match=rf"algorithm\.part_weights: the reward of {where} has no part b; got a; name"
    ):
        part_advantages([item], {"a": 1.0, "b": 1.0}, EXACT)
    assert len(part_advantages([item], {"a": 1.0}, EXACT).values) > 0


def test_a_part_beyond_the_bound_of_scores_is_named():
    item = make_rollouts("p7", [RewardResult(1.0, 0.0, {"a": 2 * MAX_SCORE}), parts(a=0.0)])
    with pytest.raises(
        ConfigError, match=r"part a of a response to rows\.jsonl:p7 \(multi\) is not in \[-1e\+06, 1e\+06\]; got 2"
    ):
        part_advantages([item], {"a": 1.0}, EXACT)


def test_failed_rollouts_are_left_out_without_parts():
    with_failures = make_rollouts("p", ab((1, 0), None, (0, 0.5)), s0=ab(None), s1=ab((0.5, 1)))
    without = make_rollouts("p", ab((1, 0), (0, 0.5)), s1=ab((0.5, 1)))
    weights = {"a": 1.0, "b": 1.0}
    found, wanted = (part_advantages([item], weights, EXACT).values.tolist() for item in (with_failures, without))
    assert found == wanted


# --- the batch


def sampled(advantages, weights=None):
    item = make_rollouts("p", ab(*((a, 0) for a in advantages)))
    return SampledPrompt(item, tuple(advantages), tuple(weights or (1.0,) * len(advantages)))


def test_the_batch_by_hand():
    kept, scale = batch_normalized([sampled((3.0, -3.0)), sampled((1.0, -1.0))], EXACT)
    assert scale == pytest.approx(math.sqrt(20 / 3))
    assert kept[0].advantages == pytest.approx((3 / scale, -3 / scale))
    _, biased = batch_normalized([sampled((3.0, -3.0)), sampled((1.0, -1.0))], replace(EXACT, unbiased_std=False))
    assert biased == pytest.approx(math.sqrt(5))
    kept, _ = batch_normalized([sampled((2.0, -2.0))], replace(EXACT, unbiased_std=False, epsilon=2.0))
    assert kept[0].advantages == (0.5, -0.5)


def test_responses_that_are_not_trained_on_are_not_in_the_batch():
    kept, scale = batch_normalized([sampled((3.0, 100.0, -3.0), (1.0, 0.0, 0.5))], EXACT)
    assert scale == pytest.approx(math.sqrt(18))
    assert kept[0].weights == (1.0, 0.0, 0.5)


def test_a_batch_without_signal_or_prompts_stays():
    kept, scale = batch_normalized([sampled((0.0, 0.0))], replace(EXACT, epsilon=1e-6))
    assert (kept[0].advantages, scale) == ((0.0, 0.0), 0.0)
    assert batch_normalized([], EXACT) == ([], 0.0)
