"""Advantages against hand-computed numbers, a loop in plain Python, and the identities of the method."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from mars.algorithms.advantages import AdvantageSettings, group_advantages
from mars.algorithms.tolerance import SCORE_TOLERANCE
from mars.errors import ConfigError
from mars.types import MAX_SCORE
from tests.examples import examples

GRPO = AdvantageSettings("group_norm", True, "mean_and_std", True, 0.0, 1e-6)
EXACT = replace(GRPO, epsilon=0.0)

reward = st.one_of(
    st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 1.0, 1.5]),
    st.floats(-2, 2, allow_nan=False, width=32).map(lambda x: round(x, 4)),
)
prompt = st.tuples(st.lists(reward, max_size=9), st.lists(reward, max_size=7))
prompts = st.lists(prompt, min_size=1, max_size=8)
choices = st.builds(
    AdvantageSettings,
    estimator=st.sampled_from(["group_norm", "leave_one_out"]),
    normalize_std=st.booleans(),
    pooled_statistics=st.sampled_from(["mean_and_std", "mean"]),
    unbiased_std=st.booleans(),
    std_floor=st.sampled_from([0.0, 0.05, 10.0]),
    epsilon=st.sampled_from([1e-6, 1e-3]),
)


def grouped(groups, dtype=torch.float64):
    values = torch.tensor([value for group in groups for value in group], dtype=dtype)
    return values, torch.tensor([i for i, group in enumerate(groups) for _ in group], dtype=torch.int64)


def advantages_of(cases, chosen, dtype=torch.float64):
    multi = grouped([multi for multi, _ in cases], dtype)
    anchors = grouped([anchors for _, anchors in cases], dtype)
    return group_advantages(*multi, *anchors, len(cases), chosen)


def one(multi, anchors, chosen):
    return advantages_of([(multi, anchors)], chosen)


def mean(values):
    total = 0.0
    for value in values:
        total += value
    return total / len(values)


def deviation(values, unbiased):
    total = 0.0
    for value in values:
        total += (value - mean(values)) * (value - mean(values))
    # torch's square root: MKL's, which torch calls, is not always the correctly rounded one of math.sqrt.
    return float(torch.tensor(total / (len(values) - int(unbiased)), dtype=torch.float64).sqrt())


def loop(multi, anchors, chosen):
    """One prompt, from the formulas alone; None where there is no advantage."""
    pool = [*multi, *anchors]
    scale_pool = pool if chosen.pooled_statistics == "mean_and_std" else multi
    if len(pool) < 2 or (chosen.normalize_std and len(scale_pool) < 2):
        return None
    if max(pool) == min(pool):
        return [0.0 for _ in multi]
    scale = 1.0
    if chosen.normalize_std:
        scale = max(deviation(scale_pool, chosen.unbiased_std), chosen.std_floor) + chosen.epsilon
    if chosen.estimator == "group_norm":
        return [(value - mean(pool)) / scale for value in multi]
    return [(value - mean(pool[:i] + pool[i + 1 :])) / scale for i, value in enumerate(multi)]


@examples(100)
@given(prompts, choices)
def test_ragged_groups_agree_with_a_loop_over_prompts(cases, chosen):
    result = advantages_of(cases, chosen)
    expected = [(values, len(multi)) for multi, anchors in cases for values in [loop(multi, anchors, chosen)]]
    values = [x for value, n in expected for x in (value if value is not None else [0.0] * n)]
    weights = [float(value is not None) for value, n in expected for _ in range(n)]
    assert result.weights.tolist() == weights
    assert result.values.tolist() == pytest.approx(values, rel=1e-9, abs=1e-9)
    assert result.defined.tolist() == [value is not None for value, _ in expected]


@examples(60)
@given(st.lists(st.lists(reward, min_size=2, max_size=20), min_size=1, max_size=6))
def test_without_anchors_it_is_plain_grpo_to_the_bit(groups):
    plain = [
        [0.0] * len(group)
        if max(group) == min(group)
        else [(value - mean(group)) / (deviation(group, True) + 1e-6) for value in group]
        for group in groups
    ]
    expected = [x for group in plain for x in group]
    assert advantages_of([(group, []) for group in groups], GRPO).values.tolist() == expected
    in_float32 = advantages_of([(group, []) for group in groups], GRPO, torch.float32).values
    assert in_float32.dtype == torch.float32


def test_without_anchors_float32_equals_torch_in_float64_rounded():
    rewards = torch.rand(500, 14, generator=torch.Generator().manual_seed(3))
    wide = rewards.double()
    plain = (wide - wide.mean(1, keepdim=True)) / (wide.std(1, keepdim=True) + 1e-6)
    index = torch.arange(500).repeat_interleave(14)
    none = torch.empty(0), torch.empty(0, dtype=torch.int64)
    values = group_advantages(rewards.reshape(-1), index, *none, 500, GRPO).values
    assert torch.equal(values, plain.reshape(-1).float())


@examples(60)
@given(prompts, choices)
def test_a_prompt_has_the_same_bits_alone_and_in_a_batch(cases, chosen):
    together = advantages_of(cases, chosen).values.tolist()
    alone = [x for case in cases for x in advantages_of([case], chosen).values.tolist()]
    assert together == alone


@examples(60)
@given(prompts, choices, st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(cases, chosen, random):
    def shuffled(values, index):
        order = list(range(len(values)))
        random.shuffle(order)
        return values[order], index[order], order

    multi = grouped([multi for multi, _ in cases])
    anchors = grouped([anchors for _, anchors in cases])
    before = group_advantages(*multi, *anchors, len(cases), chosen)
    *rows, order = shuffled(*multi)
    *anchor_rows, _ = shuffled(*anchors)
    after = group_advantages(*rows, *anchor_rows, len(cases), chosen)
    assert after.values.tolist() == pytest.approx(before.values[order].tolist(), rel=1e-9, abs=1e-9)
    assert torch.equal(after.weights, before.weights[order])


def test_order_of_rows_does_not_matter_to_the_bit_in_float32():
    generator = torch.Generator().manual_seed(5)
    rewards, anchors = torch.rand(4000, generator=generator), torch.rand(1000, generator=generator)
    index, anchor_index = (torch.randint(0, 300, (n,), generator=generator) for n in (4000, 1000))
    before = group_advantages(rewards, index, anchors, anchor_index, 300, GRPO).values
    rows, columns = torch.randperm(4000, generator=generator), torch.randperm(1000, generator=generator)
    after = group_advantages(rewards[rows], index[rows], anchors[columns], anchor_index[columns], 300, GRPO).values
    assert torch.equal(after, before[rows])


@examples(100)
@given(st.lists(reward, min_size=1, max_size=9), st.lists(reward, min_size=1, max_size=7))
def test_identities(multi, anchors):
    pool = [*multi, *anchors]
    assume(max(pool) - min(pool) > 1e-3)
    result = one(multi, anchors, EXACT)
    share, gain = float(result.multi_share[0]), float(result.gain[0])
    assert share == pytest.approx(len(multi) / len(pool))
    assert gain == pytest.approx(mean(multi) - mean(anchors), abs=1e-12)
    assert float(result.mean[0]) == pytest.approx(share * mean(multi) + (1 - share) * mean(anchors), abs=1e-12)
    for value, r in zip(result.values.tolist(), multi, strict=True):
        shift = share * (r - mean(multi)) + (1 - share) * (r - mean(anchors))
        assert value * float(result.std[0]) == pytest.approx(shift, abs=1e-9)
    assert mean(result.values.tolist()) == pytest.approx((1 - share) * gain / float(result.std[0]), abs=1e-9)


@pytest.mark.parametrize("gap", [1.0, 0.001, -0.25])
@pytest.mark.parametrize(("size", "anchors"), [(14, 2), (2, 1), (5, 6)])
def test_two_levels_push_alike_however_small_the_gap(size, anchors, gap):
    values = one([gap] * size, [0.0] * anchors, EXACT).values
    expected = math.sqrt(anchors * (size + anchors - 1) / (size * (size + anchors)))
    assert values.tolist() == pytest.approx([math.copysign(expected, gap)] * size)
    if (size, anchors) == (14, 2):
        assert expected == pytest.approx(0.366, abs=5e-4)


def test_a_floor_on_the_std_lets_small_gaps_push_less():
    floor = replace(GRPO, std_floor=0.1, epsilon=0.0)
    assert one([0.001] * 3, [0.0], floor).values.tolist() == pytest.approx([0.00025 / 0.1] * 3)
    assert one([1.0] * 3, [0.0], floor).values.tolist() == one([1.0] * 3, [0.0], EXACT).values.tolist()


@examples(60)
@given(reward, st.integers(1, 40), st.integers(0, 12), choices)
def test_equal_rewards_give_exactly_zero(value, size, anchors, chosen):
    result = one([value] * size, [value] * anchors, chosen)
    assert result.values.tolist() == [0.0] * size
    enough = size + anchors if chosen.pooled_statistics == "mean_and_std" or not chosen.normalize_std else size
    assert result.weights.tolist() == [float(enough >= 2)] * size


def test_one_anchor_that_differs_gives_equal_multi_rewards_a_signal():
    assert one([1.0, 1.0], [0.0], GRPO).values.min() > 0
    assert one([0.0, 0.0], [1.0], GRPO).values.max() < 0


# Two scores of the same perfect boxes, scaled from images of two sizes.
PERFECT, ROUNDED = 1.75, 1.7499999999999996


@examples(60)
@given(
    st.lists(st.sampled_from([PERFECT, ROUNDED]), min_size=1, max_size=20),
    st.lists(st.sampled_from([PERFECT, ROUNDED]), max_size=8),
    st.sampled_from([1.0, 1e-3, -100.0, 1e5, 5e5]),
    choices,
)
def test_rewards_that_differ_by_rounding_alone_give_exactly_zero(multi, anchors, scale, chosen):
    result = one([value * scale for value in multi], [value * scale for value in anchors], chosen)
    assert result.values.tolist() == [0.0] * len(multi)


@pytest.mark.parametrize("multi", [[0.1, 0.1, 0.1], [0.7, 0.7], [1.75] * 6, [0.3] * 14])
@pytest.mark.parametrize("gap", [0.1, 0.3, 1.0])
def test_multi_rewards_that_equal_the_baseline_but_for_rounding_give_exactly_zero(multi, gap):
    """The anchors lie symmetrically around them: mean(U) is the multi reward, up to its rounding."""
    anchors = [multi[0] - gap, multi[0] + gap]
    for chosen in (GRPO, EXACT, replace(GRPO, estimator="leave_one_out", normalize_std=False)):
        assert one(multi, anchors, chosen).values.tolist() == [0.0] * len(multi)


@pytest.mark.parametrize("gap", [1e-3, 1e-6, 2e-8])
@pytest.mark.parametrize("level", [0.0, 1.75, -1000.0])
def test_a_small_real_difference_counts(gap, level):
    assert (one([level, level + gap, level], [], EXACT).values != 0).all()
    two_levels = math.sqrt(1 * 4 / (4 * 5))  # G = 4, M = 1
    values = one([level + gap] * 4, [level], EXACT).values
    assert values.tolist() == pytest.approx([two_levels] * 4, rel=1e-3)
    assert (one([level + 1e-6] * 128, [level], EXACT).values > 0).all()


def test_the_tolerance_is_absolute():
    for level in (0.0, 1.0, 1000.0):
        assert one([level, level + SCORE_TOLERANCE * 0.5], [], EXACT).values.tolist() == [0.0, 0.0]
        assert (one([level, level + SCORE_TOLERANCE * 4], [], EXACT).values != 0).all()


@examples(60)
@given(st.lists(st.floats(-MAX_SCORE, MAX_SCORE), min_size=2, max_size=12), st.floats(-MAX_SCORE, MAX_SCORE), choices)
def test_every_reward_within_the_bound_has_a_finite_advantage(multi, anchor, chosen):
    assert torch.isfinite(one(multi, [anchor], chosen).values).all()


@pytest.mark.parametrize("score", [1.01e6, -1.01e6, 1e155, 1e308, math.inf, math.nan])
def test_a_reward_beyond_the_bound_is_refused(score):
    for multi, anchors in (([0.0, score], []), ([0.0, 1.0], [score])):
        with pytest.raises(ValueError, match="rewards must be within -1e\\+06 to 1e\\+06"):
            one(multi, anchors, GRPO)


def test_hand_computed():
    # Pool 1, 0, 0.5: mean 0.5, squares 0.25 + 0.25 + 0.
    assert one([1.0, 0.0], [0.5], EXACT).values.tolist() == pytest.approx([1.0, -1.0])
    biased = replace(EXACT, unbiased_std=False)
    assert one([1.0, 0.0], [0.5], biased).values.tolist() == pytest.approx([math.sqrt(1.5), -math.sqrt(1.5)])
    no_std = replace(EXACT, normalize_std=False)
    assert one([1.0, 0.0], [0.2], no_std).values.tolist() == pytest.approx([0.6, -0.4])
    # Without itself: 1 against (0 + 0.2) / 2, 0 against (1 + 0.2) / 2.
    rloo = replace(no_std, estimator="leave_one_out")
    assert one([1.0, 0.0], [0.2], rloo).values.tolist() == pytest.approx([0.9, -0.6])
    # Baseline of the pool 0.4, std of the multi rewards alone sqrt(0.5).
    mean_only = replace(EXACT, pooled_statistics="mean")
    assert one([1.0, 0.0], [0.2], mean_only).values.tolist() == pytest.approx([0.6 / 0.5**0.5, -0.4 / 0.5**0.5])


def test_too_few_rewards_weigh_nothing():
    cases = [([1.0], []), ([], [0.5, 0.2]), ([1.0], [0.0]), ([], []), ([1.0, 0.0], [])]
    result = advantages_of(cases, GRPO)
    assert result.weights.tolist() == [0.0, 1.0, 1.0, 1.0]
    assert result.values[0] == 0
    assert result.defined.tolist() == [False, True, True, False, True]
    assert result.gain.isnan().tolist() == [True, True, False, True, True]
    assert torch.isfinite(result.values).all()


def test_an_empty_batch_is_no_error():
    result = advantages_of([], GRPO)
    assert len(result.values) == len(result.defined) == 0


def test_integer_rewards_keep_their_fractions():
    none = torch.empty(0), torch.empty(0, dtype=torch.int64)
    values = group_advantages(torch.tensor([1, 0, 0]), torch.zeros(3, dtype=torch.int64), *none, 1, EXACT).values
    assert values.tolist() == pytest.approx([2 / math.sqrt(3), -1 / math.sqrt(3), -1 / math.sqrt(3)])


@pytest.mark.parametrize(
    ("field", "key"), [("estimator", "algorithm.estimator"), ("pooled_statistics", "anchor.pooled_statistics")]
)
def test_unknown_choices_are_refused(field, key):
    with pytest.raises(ConfigError, match=key):
        replace(GRPO, **{field: "other"})
