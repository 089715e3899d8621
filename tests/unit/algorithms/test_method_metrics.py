"""Rewards as tensors, selection, metrics of the method, log-prob difference; and the docstrings' examples."""

import doctest
import importlib
import pkgutil

import pytest
import torch

import mars.algorithms
from mars.algorithms.advantages import Advantages, AdvantageSettings
from mars.algorithms.metrics import method_metrics
from mars.algorithms.mismatch import ImportanceSettings, importance_weights, logprob_difference
from mars.algorithms.pooled_rewards import AnchorViews, PooledRewards, with_advantages
from mars.algorithms.selection import select_prompts
from mars.algorithms.token_layout import TokenLayout
from mars.errors import ConfigError
from mars.types import (
    Sampling,
    view_name,
)
from tests.builders import make_rollouts

GRPO = AdvantageSettings("group_norm", True, "mean_and_std", True, 0.0, 0.0)
SAMPLING = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_response_tokens=4)


STEP = [
    make_rollouts("a", [1.0, 0.0], visible=[0.0], infrared=[1.0]),  # gain 0, conflict
    make_rollouts("b", [1.0, 1.0], visible=[0.5], infrared=[0.0]),  # gain 0.75, equal multi rewards
    make_rollouts("c", [0.0, 0.0, 0.0], visible=[0.0], infrared=[0.0]),  # nothing to learn
    make_rollouts("d", [1.0, None], visible=[None], infrared=[None]),  # one valid reward
    make_rollouts("e", [0.0, None, 1.0], visible=[None, 0.25], infrared=[None]),  # ragged
]


def metrics_of(step):
    rewards = PooledRewards.of_rollouts(step)
    advantages = rewards.advantages(GRPO)
    return method_metrics(rewards, AnchorViews.of_rollouts(step), advantages), rewards, advantages


def test_only_valid_rewards_are_pooled_in_the_order_of_the_prompts():
    rewards = PooledRewards.of_rollouts(STEP)
    assert rewards.rewards.tolist() == [1, 0, 1, 1, 0, 0, 0, 1, 0, 1]
    assert rewards.prompt_index.tolist() == [0, 0, 1, 1, 2, 2, 2, 3, 4, 4]
    assert rewards.anchor_rewards.tolist() == [0, 1, 0.5, 0, 0, 0, 0.25]
    assert rewards.anchor_prompt_index.tolist() == [0, 0, 1, 1, 2, 2, 4]
    views = AnchorViews.of_rollouts(STEP)
    assert views.names == ("infrared", "visible")
    assert [views.names[i] for i in views.index] == ["visible", "infrared"] * 3 + ["visible"]


def test_every_prompt_gets_the_advantages_of_its_own_responses():
    """One for each valid multi rollout; the second round's do not depend on the first's."""
    sampled = with_advantages(STEP, PooledRewards.of_rollouts(STEP).advantages(GRPO))
    assert [item.rollouts for item in sampled] == STEP
    assert [item.weights for item in sampled] == [(1, 1), (1, 1), (1, 1, 1), (0,), (1, 1)]
    assert not any(item.carried for item in sampled)
    root = 3**0.5
    by_hand = [
        (root / 2, -root / 2),  # mean 0.5, std sqrt(1 / 3)
        (0.375 / std([1, 1, 0.5, 0]), 0.375 / std([1, 1, 0.5, 0])),
        (0.0, 0.0, 0.0),
        (0.0,),
        ((0 - 1.25 / 3) / std([0, 1, 0.25]), (1 - 1.25 / 3) / std([0, 1, 0.25])),
    ]
    assert [item.advantages for item in sampled] == [pytest.approx(values) for values in by_hand]
    assert with_advantages(STEP[3:], PooledRewards.of_rollouts(STEP[3:]).advantages(GRPO)) == sampled[3:]
    with pytest.raises(RuntimeError, match="split"):
        with_advantages(STEP, PooledRewards.of_rollouts(STEP[3:]).advantages(GRPO))


def std(values):
    return torch.tensor(values, dtype=torch.float64).std().item()


@pytest.mark.parametrize("cut", range(6))
def test_rounds_joined_give_the_metrics_of_one_round_to_the_bit(cut):
    rounds = [PooledRewards.of_rollouts(part).advantages(GRPO) for part in (STEP[:cut], STEP[cut:])]
    rewards, views = PooledRewards.of_rollouts(STEP), AnchorViews.of_rollouts(STEP)
    assert method_metrics(rewards, views, Advantages.joined(rounds)) == metrics_of(STEP)[0]


def test_metrics_by_hand():
    metrics, _, _ = metrics_of(STEP)
    gains = torch.tensor([0.0, 0.75, 0.0, 0.25])
    expected = {
        "critic/rewards/mean": 0.5,
        "critic/rewards/min": 0.0,
        "critic/rewards/max": 1.0,
        "reward/frac_zero_std": 3 / 5,
        "mars/frac_zero_signal": 2 / 5,
        "mars/frac_undefined": 1 / 5,
        "mars/lambda": (0.5 + 0.5 + 0.6 + 2 / 3) / 4,
        "mars/gain/mean": 0.25,
        "mars/gain/std": gains.std().item(),
        "mars/conflict_rate": 1 / 4,
        "mars/anchor/visible/mean": 0.75 / 4,
        "mars/anchor/infrared/mean": 1 / 3,
    }
    advantages = {key: metrics.pop(key) for key in list(metrics) if key.startswith("critic/advantages")}
    assert metrics == pytest.approx(expected)
    assert set(advantages) == {f"critic/advantages/{name}" for name in ("mean", "min", "max")}


def test_mean_advantage_is_the_gain_over_the_std():
    step = [make_rollouts("a", [1.0, 0.5, 0.25], visible=[0.0], infrared=[0.75])]
    metrics, _, advantages = metrics_of(step)
    expected = (1 - metrics["mars/lambda"]) * metrics["mars/gain/mean"] / advantages.std.item()
    assert metrics["critic/advantages/mean"] == pytest.approx(expected)


def test_without_anchors_nothing_is_said_about_them():
    metrics, _, _ = metrics_of([make_rollouts("a", [1.0, 0.0])])
    assert not [key for key in metrics if key.startswith(("mars/gain", "mars/anchor", "mars/lambda", "mars/conflict"))]
    assert metrics["critic/advantages/mean"] == pytest.approx(0.0)
    assert metrics["mars/frac_zero_signal"] == 0.0


def test_no_prompts_no_metrics():
    assert metrics_of([])[0] == {}


def test_all_rewards_failed():
    metrics, _, _ = metrics_of([make_rollouts("a", [None, None], visible=[None])])
    assert metrics == {"mars/frac_zero_signal": 1.0, "mars/frac_undefined": 1.0}


def test_prompts_without_a_valid_multi_reward_are_no_zero_std():
    metrics, _, _ = metrics_of(
        [make_rollouts("a", [None, None]), make_rollouts("b", [1.0, 1.0]), make_rollouts("c", [1.0, 0.0])]
    )
    assert metrics["reward/frac_zero_std"] == 1 / 2
    assert metrics["mars/frac_undefined"] == pytest.approx(1 / 3)


def test_rounding_is_no_conflict():
    # (0.1 + 0.1 + 0.1) / 3 is above 0.1 in floating point; the reverse must not count as a conflict.
    metrics, _, _ = metrics_of([make_rollouts("a", [0.1, 0.1], visible=[0.1, 0.1, 0.1])])
    assert metrics["mars/conflict_rate"] == 0.0


ROUNDED = [1.75, 1.7499999999999996, 1.75]


def test_rounding_is_no_signal():
    """Of perfect answers, some boxes were scaled from another frame."""
    step = [
        make_rollouts("a", ROUNDED, visible=[1.75], infrared=[1.7499999999999996]),
        make_rollouts("b", [1.7499999999999996, 1.7499999999999996], visible=[1.75]),
        make_rollouts("c", [1.75, 1.75 - 1e-6], visible=[1.75]),  # small, and real
    ]
    metrics, rewards, advantages = metrics_of(step)
    assert select_prompts(advantages, rewards.prompt_index, "nonzero_advantage").keep.tolist() == [False, False, True]
    assert select_prompts(advantages, rewards.prompt_index, "all").keep.tolist() == [True, True, True]
    assert metrics["reward/frac_zero_std"] == metrics["mars/frac_zero_signal"] == pytest.approx(2 / 3)
    assert metrics["mars/conflict_rate"] == pytest.approx(1 / 3)


def test_prompts_whose_multi_rewards_all_failed_are_undefined():
    """As in selection: two anchor rewards suffice for statistics, but there is no response to train on."""
    step = [
        make_rollouts("a", [None, None], visible=[1.0], infrared=[0.0]),
        make_rollouts("b", [1.0, None], visible=[0.0]),
        make_rollouts("c", [1.0, None], visible=[None]),
        make_rollouts("d", [None], visible=[1.0, 1.0]),
    ]
    metrics, rewards, advantages = metrics_of(step)
    assert metrics["mars/frac_undefined"] == 3 / 4
    for rule in ("all", "nonzero_advantage"):
        selection = select_prompts(advantages, rewards.prompt_index, rule)
        assert (selection.num_undefined, selection.keep.tolist()) == (3, [False, True, False, False])


def test_views_of_several_sources_have_a_joined_name():
    metrics, _, _ = metrics_of([make_rollouts("a", [1.0, 0.0], rgb_and_depth=[0.5])])
    assert metrics["mars/anchor/rgb+depth/mean"] == 0.5
    assert view_name(None) == "multi"


@pytest.mark.parametrize(
    ("rule", "keep", "zero_signal"),
    [("all", [True, True, True, False, True], 0), ("nonzero_advantage", [True, True, False, False, True], 1)],
)
def test_selection(rule, keep, zero_signal):
    _, rewards, advantages = metrics_of(STEP)
    selection = select_prompts(advantages, rewards.prompt_index, rule)
    assert selection.keep.tolist() == keep
    assert (selection.num_undefined, selection.num_zero_signal) == (1, zero_signal)


def test_equal_multi_rewards_are_dropped_without_anchors_and_kept_with():
    for step, kept in (
        ([make_rollouts("a", [1.0, 1.0])], False),
        ([make_rollouts("a", [1.0, 1.0], visible=[0.0])], True),
    ):
        _, rewards, advantages = metrics_of(step)
        assert select_prompts(advantages, rewards.prompt_index, "nonzero_advantage").keep.tolist() == [kept]


def test_selection_refuses_an_unknown_rule():
    _, rewards, advantages = metrics_of(STEP)
    with pytest.raises(ConfigError, match=r"algorithm\.selection"):
        select_prompts(advantages, rewards.prompt_index, "std")


def test_logprob_difference_by_hand():
    layout = TokenLayout.padded(torch.tensor([[1, 1], [1, 0]]))
    old, rollout = torch.tensor([[-1.0, -2.0], [-3.0, float("nan")]]), torch.tensor([[-1.5, -2.0], [-2.0, 0.0]])
    difference = logprob_difference(old, rollout, layout)
    assert [difference.max.item(), difference.sum.item(), difference.num_tokens.item()] == [1.0, 1.5, 3]
    weights = importance_weights(old, rollout, layout, ImportanceSettings("token", "truncate", 1.5, 0.0))
    assert weights.weights.tolist() == [pytest.approx([1.5, 1.0]), pytest.approx([0.36787944, 0.0])]


def test_logprob_difference_of_no_tokens():
    empty = torch.empty(0)
    difference = logprob_difference(empty, empty, TokenLayout.packed(torch.empty(0, dtype=torch.int64)))
    assert [difference.max.item(), difference.sum.item(), difference.num_tokens.item()] == [0, 0, 0]


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(mars.algorithms.__path__)])
def test_examples_in_docstrings(name):
    module = importlib.import_module(f"mars.algorithms.{name}")
    assert doctest.testmod(module, extraglobs={"torch": torch}).failed == 0
