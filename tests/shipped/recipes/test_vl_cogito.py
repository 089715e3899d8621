"""recipe/vl_cogito: the weights of the three stages, the rewards, and the lengths of wrong responses."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import cos, pi, sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mars.hooks.step_hooks import Named
from mars.types import RewardResult
from tests.builders import make_rollouts, with_extra
from tests.fakes.step import one_step, parts
from tests.hook_builders import step_facts, step_hooks
from tests.shipped.recipes.recipe_files import ROOT, answer, compose, item, module_of, reward_of
from tests.shipped.recipes.rule_files import advantages_of, prompts_with

RECIPE = module_of("vl_cogito")
LAST = RECIPE.Settings(curve="s_1", all_wrong=0.25, target_tokens=750, limit_tokens=4096, right_from=0.5)
CURVES = ("s_3", "s_2", "s_1", "h_1", "h_2", "h_3")


def facts(settings=LAST):
    return step_facts(settings)


def right(*, score=1.0):
    return RewardResult(score, 1.0, {})


@pytest.mark.parametrize(
    ("curve", "weights"),
    [
        # p = 0, 0.25, 0.5, 0.75, 1. cos(pi * 0.25) = sqrt(0.5); cos(pi * 0.5) = 0
        ("s_3", [0, sqrt(0.5), 1, 1, 1]),
        ("s_2", [0, sqrt(0.5), 1, sqrt(0.5), 0]),
        ("s_1", [0.25, 1, 1, sqrt(0.5), 0]),
        ("h_1", [0, 1, 1, 0, 0]),
        ("h_2", [0, 1, 1, 1, 0]),
        ("h_3", [0, 0, 1, 1, 1]),
    ],
)
def test_weights_by_hand(curve, weights):
    settings = replace(LAST, curve=curve)
    found = [RECIPE.weight(share, settings) for share in (0, 0.25, 0.5, 0.75, 1)]
    assert found == pytest.approx(weights, abs=1e-12)


@given(st.sampled_from(CURVES), st.floats(0, 1))
def test_weights_are_in_0_to_1_and_largest_at_one_half(curve, share):
    settings = replace(LAST, curve=curve)
    assert -1e-12 <= RECIPE.weight(share, settings) <= RECIPE.weight(0.5, settings) == 1


def test_a_prompt_is_weighted_by_its_right_multi_responses():
    """Failed responses, guests and anchors are not counted: p = 1/2, and p = 0."""
    half = make_rollouts("a", [right(), 0.0, None], s0=[right(), right()])
    half = with_extra(half, "guest", "guest", [right()])
    none = make_rollouts("b", [0.0, RewardResult(0.5, 0.4, {})], s0=[right()])
    base = advantages_of([half, none])
    assert len(base.values) == 3 + 2
    found = RECIPE.DifficultyWeight()(base, [half, none], facts(replace(LAST, curve="s_2")))
    assert torch.equal(found.values, base.values * torch.tensor([1.0, 1, 1, 0, 0]))
    assert torch.equal(found.weights, base.weights)
    last = RECIPE.DifficultyWeight()(base, [half, none], facts())
    assert torch.equal(last.values, base.values * torch.tensor([1.0, 1, 1, 0.25, 0.25]))
    assert float(base.values[3:].abs().sum()) > 0, "an anchor is right"


def test_a_prompt_without_a_valid_response_counts_as_all_wrong():
    kept = [with_extra(make_rollouts("a", [None, None]), "guest", "guest", [right(), 0.0])]
    base = advantages_of(kept)
    assert float(base.values.abs().sum()) > 0
    assert torch.equal(RECIPE.DifficultyWeight()(base, kept, facts()).values, base.values * 0.25)


def test_right_from_says_which_responses_are_right():
    """Accuracies 0.6 and 0: with 0.5 the first is right and p = 1/2; with 0.7 none is."""
    kept = [lengthened(make_rollouts("a", [RewardResult(1.0, 0.6, {}), 0.0]), [750, 750])]
    strict = facts(replace(LAST, right_from=0.7))
    base = advantages_of(kept)
    assert torch.equal(RECIPE.DifficultyWeight()(base, kept, facts()).values, base.values)
    assert torch.equal(RECIPE.DifficultyWeight()(base, kept, strict).values, base.values * 0.25)
    assert RECIPE.LengthOfWrong()(lengthened(kept[0], [375, 750]), facts())[0] == 0
    assert RECIPE.LengthOfWrong()(lengthened(kept[0], [375, 750]), strict)[0] == pytest.approx(-0.125)


def scored(text, name="score_last_stage"):
    return reward_of("vl_cogito", name)(item(text, "4"))


def test_the_reward_by_hand():
    assert [scored(answer(text), name).score for text in "45" for name in ("score", "score_last_stage")] == [
        1.5, 1.5, 0.5, 0.5,
    ]  # fmt: skip
    assert scored("so <answer>4</answer>").parts == {"accuracy": 1, "format": 0, "repetition": 0}
    assert scored("").score == scored("4").score == 0


def test_only_a_wrong_answer_loses_for_repeating_itself():
    # With the tags 42 words, which have 23 20-grams. One of them comes again: the twenty words, in capital letters.
    words = " ".join(f"w{k}" for k in range(20))
    wrong = answer("5", f" {words} {words.upper()} ")
    assert scored(wrong).parts["repetition"] == pytest.approx(-0.5 * 1 / 23)
    assert scored(wrong).score == pytest.approx(0.5 - 0.5 * 1 / 23)
    assert scored(wrong, "score").score == 0.5
    assert scored(answer("4", f" {words} {words} ")).parts["repetition"] == 0


def lengthened(item, lengths):
    """The multi rollouts with these numbers of tokens."""
    rollouts = tuple(
        replace(r, completion=replace(r.completion, token_ids=(7,) * n, logprobs=(-0.5,) * n))
        for r, n in zip(item.multi.rollouts, lengths, strict=True)
    )
    return replace(item, multi=replace(item.multi, rollouts=rollouts))


def test_lengths_of_wrong_responses_by_hand():
    """The right ones have 80 and 120 tokens, 100 on average."""
    group = make_rollouts("a", [right(), 0.0, 0.0, right(), 0.0, None, 0.0], s0=[0.0])
    group = lengthened(group, [80, 50, 100, 120, 150, 9, 250])
    # cos(pi / 2) = 0, cos(pi) = -1, cos(3 pi / 2) = 0
    wanted = [0, -0.25, 0, 0, -0.25, -0.5]
    found = RECIPE.LengthOfWrong()(group, facts())
    assert len(found) == 7
    assert [found[k] for k in (0, 1, 2, 3, 4, 6)] == pytest.approx(wanted)


def test_lengths_without_a_right_response_by_hand():
    """Half of -0.25 (1 + cos(pi n / 750)): n = 250 has cos(pi / 3) = 0.5."""
    group = lengthened(make_rollouts("a", [0.0] * 5), [250, 375, 750, 4000, 4096])
    wanted = [-0.5 * 0.25 * 1.5, -0.5 * 0.25, 0, 0, -0.25]
    assert RECIPE.LengthOfWrong()(group, facts()) == pytest.approx(wanted)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 200)), min_size=1, max_size=8))
def test_right_responses_lose_nothing_and_wrong_ones_as_a_slow_reference_says(drawn):
    group = lengthened(make_rollouts("a", [right() if yes else 0.0 for yes, _ in drawn]), [n for _, n in drawn])
    lengths = [n for yes, n in drawn if yes]
    mean = sum(lengths) / len(lengths) if lengths else None
    for amount, (yes, n) in zip(RECIPE.LengthOfWrong()(group, facts()), drawn, strict=True):
        assert -0.5 <= amount <= 0
        if yes:
            assert amount == 0
        elif mean is None:
            assert amount == pytest.approx(-0.125 * (1 + cos(pi * n / 750)))
        else:
            assert amount == pytest.approx(-0.25 * (1 + cos(pi * min(n / mean, 2))))


def test_a_target_above_the_limit_is_refused():
    for target in (0, 5000):
        with pytest.raises(ValueError, match="target_tokens"):
            replace(LAST, target_tokens=target)


def test_the_stages_follow_each_other():
    folder = ROOT / "recipe" / "vl_cogito"
    stages = [compose(folder, f"vl_cogito_stage{k}_qwen2_5_vl_7b") for k in (1, 2, 3)]
    assert [stage.recipe.settings["vl_cogito"]["curve"] for stage in stages] == ["s_3", "s_2", "s_1"]
    assert [len(stage.recipe.shaping) for stage in stages] == [0, 0, 1]
    for before, after in pairwise(stages):
        assert after.model.path == f"{before.run.dir}/policy"
    for stage in stages:
        assert stage.recipe.settings["vl_cogito"] == {
            "curve": stage.recipe.settings["vl_cogito"]["curve"],
            "all_wrong": 0.25,
            "target_tokens": 750,
            "limit_tokens": 4096,
            "right_from": 0.5,
        }


def test_a_step_shapes_wrong_responses_and_weights_prompts():
    """p0: the longest of four is right. Lengths 2, 3, 4, 5 tokens; L = 5. p1: all wrong, the target is 4 tokens."""
    prompts, table = prompts_with({"p0": [0, 0, 0, 1], "p1": [0, 0, 0, 0]})
    settings = replace(LAST, target_tokens=4, limit_tokens=5)
    hooks = step_hooks(
        shaping=(Named("vl_cogito:LengthOfWrong", RECIPE.LengthOfWrong(), settings),),
        advantage=(Named("vl_cogito:DifficultyWeight", RECIPE.DifficultyWeight(), settings),),
    )
    made = replace(parts(table, anchor="none"), hooks=hooks)
    result = one_step(made, prompts)
    scores = [[r.reward.score for r in found.multi.rollouts] for found in result.rollouts]
    with_right = [-0.25 * (1 + cos(pi * n / 5)) for n in (2, 3, 4)]
    without = [-0.125 * (1 + cos(pi * n / 4)) for n in (2, 3, 4)]
    assert scores == [pytest.approx([*with_right, 1]), pytest.approx([*without, -0.25])]
    (first, second) = made.trainer.batches[0].prompts
    assert [r.weight for r in (*first.responses, *second.responses)] == [1] * 8
    std = torch.tensor(scores, dtype=torch.float64).std(1)
    mean = [sum(row) / 4 for row in scores]
    # p = 1/4 has the weight 1, p = 0 has 0.25.
    assert [r.advantage for r in first.responses] == pytest.approx(
        [(r - mean[0]) / (float(std[0]) + 1e-6) for r in scores[0]]
    )
    assert [r.advantage for r in second.responses] == pytest.approx(
        [0.25 * (r - mean[1]) / (float(std[1]) + 1e-6) for r in scores[1]]
    )
