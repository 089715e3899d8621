"""recipe/observe_r1: the form of a response, the bonus for the shortest right one, and the weight of a prompt."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mars.hooks.step_hooks import Named
from mars.types import RewardResult
from tests.builders import make_rollouts, with_extra
from tests.fakes.step import one_step, parts
from tests.hook_builders import step_facts, step_hooks
from tests.shipped.recipes.recipe_files import item, module_of, reward_of
from tests.shipped.recipes.rule_files import advantages_of, prompts_with

RECIPE = module_of("observe_r1")
PAPER = RECIPE.Settings(bonus=0.2, min_tokens=100, sigma=1.8, right_from=0.5)
RIGHT = RewardResult(1.0, 1.0, {})


def facts(**changes):
    return step_facts(replace(PAPER, **changes))


OBSERVE, THINK, ANSWER = "<observe>a car</observe>", "<think>so</think>", "<answer>4</answer>"
WITHIN = f"<think>look {OBSERVE} so</think>"


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (f"{OBSERVE}\n{THINK} {ANSWER}", 1),
        (f"{WITHIN}\n{ANSWER}", 1),
        (f"Well. {OBSERVE}{THINK}{ANSWER} done", 1),
        (f"{OBSERVE} and {THINK}{ANSWER}", 0),
        (f"{OBSERVE}{THINK} so {ANSWER}", 0),
        (f"{THINK}{OBSERVE}{ANSWER}", 0),
        (f"{THINK}{ANSWER}{OBSERVE}", 0),
        (f"{OBSERVE}{OBSERVE}{THINK}{ANSWER}", 0),
        (f"{OBSERVE}{THINK}{ANSWER}<answer>5</answer>", 0),
        (f"<observe> </observe>{THINK}{ANSWER}", 0),
        (f"<think><observe> </observe></think>{ANSWER}", 0),
        (f"</observe><observe>{THINK}{ANSWER}", 0),
        (f"<think></observe>so<observe></think>{ANSWER}", 0),
        (f"<observe>a <think>b</observe> c</think>{ANSWER}", 0),
        (f"{THINK}{ANSWER}", 0),
        ("", 0),
    ],
)
def test_forms(text, form):
    assert RECIPE.has_form(text) == form


def test_the_reward_by_hand():
    score = reward_of("observe_r1", "score")
    full = f"{OBSERVE}{THINK}{ANSWER}"
    assert [score(item(full, truth)).score for truth in ("4", "5")] == [1.5, 0.5]
    assert score(item(ANSWER, "4")).parts == {"accuracy": 1, "format": 0}
    assert score(item("4", "4")).score == 0


def with_lengths(rewards, lengths):
    group = make_rollouts("a", rewards, s0=[RIGHT])
    rollouts = tuple(
        replace(r, completion=replace(r.completion, token_ids=(7,) * n, logprobs=(-0.5,) * n))
        for r, n in zip(group.multi.rollouts, lengths, strict=True)
    )
    return replace(group, multi=replace(group.multi, rollouts=rollouts))


@pytest.mark.parametrize(
    ("rewards", "lengths", "amounts"),
    [
        ([RIGHT, 0.0, RIGHT, None], [120, 101, 110, 50], [0, 0, 0.2, 0]),
        ([RIGHT, RIGHT], [101, 101], [0.2, 0]),
        ([RIGHT, RIGHT], [101, 100], [0, 0]),  # the shortest is too short, so nobody gets it
        ([0.0, 0.0], [200, 300], [0, 0]),
    ],
)
def test_the_shortest_right_response_gets_the_bonus(rewards, lengths, amounts):
    assert RECIPE.Concise()(with_lengths(rewards, lengths), facts()) == amounts


def test_a_guest_may_be_the_shortest():
    group = with_extra(with_lengths([RIGHT], [3]), "guest", "guest", [0.0, RIGHT])  # of 1 and 2 tokens
    assert RECIPE.Concise()(group, facts(min_tokens=1)) == [0, 0, 0.2]


@given(st.lists(st.tuples(st.sampled_from([None, 0.0, 1.0]), st.integers(1, 6)), min_size=1, max_size=6))
def test_at_most_one_response_gets_it_and_it_is_right_and_no_right_one_is_shorter(drawn):
    rewards = [None if accuracy is None else RewardResult(0.0, accuracy, {}) for accuracy, _ in drawn]
    amounts = RECIPE.Concise()(with_lengths(rewards, [n for _, n in drawn]), facts(min_tokens=2))
    lengths = [n for accuracy, n in drawn if accuracy]
    assert amounts.count(0.2) == (bool(lengths) and min(lengths) > 2)
    if 0.2 in amounts:
        accuracy, n = drawn[amounts.index(0.2)]
        assert accuracy == 1
        assert n == min(lengths)


def test_weights_by_hand():
    # 4 * 1.8 * d * (1 - d)
    found = [RECIPE.weight(share, 1.8) for share in (0, 0.125, 0.25, 0.5, 0.75, 1)]
    assert found == pytest.approx([0, 7.2 * 0.109375, 1.35, 1.8, 1.35, 0])


@given(st.integers(0, 16), st.floats(0.1, 4))
def test_uncertain_prompts_weigh_most_and_right_and_wrong_count_alike(right, sigma):
    share = right / 16
    assert 0 <= RECIPE.weight(share, sigma) <= RECIPE.weight(0.5, sigma) == pytest.approx(sigma)
    assert RECIPE.weight(share, sigma) == pytest.approx(RECIPE.weight(1 - share, sigma))


def test_a_prompt_is_weighted_by_its_right_multi_responses():
    kept = [make_rollouts("a", [RIGHT, 0.0, 0.0, 0.0], s0=[RIGHT]), make_rollouts("b", [RIGHT, RIGHT], s0=[0.0])]
    base = advantages_of(kept)
    found = RECIPE.UncertaintyWeight()(base, kept, facts())
    assert found.values.tolist() == pytest.approx([1.35 * a for a in base.values[:4].tolist()] + [0, 0])
    assert float(base.values[4]) > 0, "the anchor is wrong"
    assert torch.equal(found.weights, base.weights)


def test_right_from_says_which_responses_are_right():
    """Accuracies 0.6 and 0: with 0.5 the first is right and d = 1/2; with 0.7 none is."""
    kept = [with_lengths([RewardResult(1.0, 0.6, {}), 0.0], [120, 130])]
    base = advantages_of(kept)
    for right_from, bonus, factor in ((0.5, 0.2, 1.8), (0.7, 0, 0)):
        assert RECIPE.Concise()(kept[0], facts(right_from=right_from)) == [bonus, 0]
        found = RECIPE.UncertaintyWeight()(base, kept, facts(right_from=right_from)).values
        assert found.tolist() == pytest.approx((base.values * factor).tolist())


def test_a_prompt_without_a_valid_response_has_the_weight_0():
    kept = [with_extra(make_rollouts("a", [None, None]), "guest", "guest", [RIGHT, 0.0])]
    base = advantages_of(kept)
    assert float(base.values.abs().sum()) > 0
    assert RECIPE.UncertaintyWeight()(base, kept, facts()).values.tolist() == [0, 0]


def test_a_step_adds_the_bonus_before_the_advantages_and_the_weight_after_them():
    """p0: responses of 2, 3, 4, 5 tokens, the second and fourth are right: the second gets the bonus. d = 1/2."""
    prompts, table = prompts_with({"p0": [0, 1, 0, 1]})
    settings = replace(PAPER, min_tokens=2)
    hooks = step_hooks(
        shaping=(Named("observe_r1:Concise", RECIPE.Concise(), settings),),
        advantage=(Named("observe_r1:UncertaintyWeight", RECIPE.UncertaintyWeight(), settings),),
    )
    made = replace(parts(table, anchor="none"), hooks=hooks)
    result = one_step(made, prompts)
    scores = [0, 1.2, 0, 1]
    assert [r.reward.score for r in result.rollouts[0].multi.rollouts] == pytest.approx(scores)
    mean = 2.2 / 4
    std = (sum((r - mean) ** 2 for r in scores) / 3) ** 0.5
    trained = made.trainer.batches[0].prompts[0].responses
    assert [r.advantage for r in trained] == pytest.approx([1.8 * (r - mean) / (std + 1e-6) for r in scores])
    assert [r.weight for r in trained] == [1] * 4
    assert result.metrics["reward/concise/mean"] == pytest.approx(0.05)
