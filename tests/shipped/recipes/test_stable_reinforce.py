"""recipe/stable_reinforce: the reward with a judge, and the filter of advantages."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from mars.algorithms.policy_loss import PolicyLossSettings, policy_loss
from mars.algorithms.token_layout import TokenLayout
from mars.hooks.step_hooks import Named
from tests.builders import make_rollouts
from tests.fakes.step import one_step, parts
from tests.hook_builders import step_facts, step_hooks
from tests.shipped.recipes.recipe_files import ROOT, answer, compose, item, module_of
from tests.shipped.recipes.recipe_judge import judge_of_recipe
from tests.shipped.recipes.rule_files import advantages_of, prompts_with
from tests.unit.rewards.judge_server import says

RECIPE = module_of("stable_reinforce")
PAPER = RECIPE.Settings(deviations=3.0, subtract_mean=True)


@pytest.fixture
def judge(monkeypatch):
    with judge_of_recipe(RECIPE, monkeypatch) as server:
        yield server


@pytest.mark.parametrize(
    ("said", "consistency", "score"), [("1", 1, 1.5 + 0.5), ("0", -1, 0.5 + 0.5), ("well", 0, 1 + 0.5)]
)
def test_the_score_of_a_right_answer_by_hand(judge, said, consistency, score):
    judge.steps.append(says(said))
    result = RECIPE.score(item(answer("2", "a\nb\n1 is short\n2 is right\nso it is 2"), "2"))
    assert result.parts == {"accuracy": 1, "format": 1, "consistency": consistency}
    assert (result.score, result.accuracy) == (score, 1)
    ((_, _, body),) = judge.requests
    asked = body["messages"][0]["content"]
    assert (body["model"], body["temperature"]) == ("a-judge", 0)
    assert asked.endswith("Reasoning:\n1 is short\n2 is right\nso it is 2</think>\n\nAnswer:\nresponse 2 is better")


@pytest.mark.parametrize(("text", "score"), [(answer("1"), 0.5), ("2", 0), ("", 0), (answer(""), 0.5)])
def test_about_a_wrong_answer_nobody_is_asked(judge, text, score):
    assert RECIPE.score(item(text, "2")).score == score
    assert judge.requests == []


def test_an_answer_in_other_words_is_quoted():
    assert RECIPE.question("<think>so</think><answer> three </answer>", " three ").endswith("Answer:\nthree")


@pytest.mark.parametrize(
    ("text", "verdict"),
    [("1", 1), (" 0.", -1), ("Output: 1", 1), ("**0**", -1), ("0 or 1", 0), ("10", 0), ("yes", 0), ("1 1", 1)],
)
def test_verdicts(text, verdict):
    assert RECIPE.verdict_of(text) == verdict


def filtered(values, settings=PAPER, weights=None):
    given = torch.tensor(values, dtype=torch.float64)
    counted = torch.ones(len(values), dtype=torch.bool) if weights is None else torch.tensor(weights) > 0
    return RECIPE.filtered(given, counted, settings).tolist()


def test_the_filter_by_hand():
    """Mean 1, variance (15 * 1 + 225) / 16 = 15: the last has z = 15 / sqrt(15) = 3.87, the others -0.26."""
    values = [0.0] * 15 + [16.0]
    z = -1 / 15**0.5
    assert filtered(values) == pytest.approx([z] * 15 + [0])
    assert filtered(values, replace(PAPER, deviations=3.9)) == pytest.approx([z] * 15 + [15 / 15**0.5])
    root = ((1 + 9) / 2) ** 0.5
    assert filtered([1.0, 3.0], replace(PAPER, subtract_mean=False)) == pytest.approx([1 / root, 3 / root])
    assert filtered([1.0, 3.0]) == pytest.approx([-1, 1])
    assert (filtered([2.0, 2.0]), filtered([2.0])) == ([0, 0], [0])
    assert filtered([0.0, 0.0], replace(PAPER, subtract_mean=False)) == [0, 0]
    assert filtered([]) == []


@given(
    st.lists(st.tuples(st.floats(-5, 5).map(lambda x: round(x, 3)), st.booleans()), max_size=20),
    st.floats(0.5, 4),
    st.booleans(),
)
def test_the_filter_agrees_with_numpy(drawn, deviations, subtract_mean):
    values, weights = [value for value, _ in drawn], [float(counted) for _, counted in drawn]
    counted = np.array([value for value, weight in zip(values, weights, strict=True) if weight])
    found = filtered(values, RECIPE.Settings(deviations, subtract_mean), weights)
    centre = counted.mean() if subtract_mean and len(counted) else 0.0
    root = np.linalg.norm(counted - centre) / max(len(counted), 1) ** 0.5
    if root < 1e-9:
        assert found == [0] * len(values)
        return
    for value, got in zip(values, found, strict=True):
        z = (value - centre) / root
        if abs(abs(z) - deviations) > 1e-9:
            assert got == pytest.approx(0 if abs(z) > deviations else z)


def test_alike_advantages_of_anchored_groups_stay_of_size_1():
    """63 prompts whose responses are all right, and one with a little less: their standard deviation is near 0."""
    right = [make_rollouts(f"p{i}", [1.5] * 4, s0=[0.5], s1=[0.5]) for i in range(63)]
    base = advantages_of([*right, make_rollouts("q", [1.5, 1.5, 1.5, 1.0], s0=[0.5], s1=[0.5])])
    with_anchors = replace(PAPER, subtract_mean=False)
    found = RECIPE.AdvantageFilter()(base, [], step_facts(with_anchors)).values
    assert found.abs().max() <= 3
    assert found[: 63 * 4].tolist() == pytest.approx([1] * 63 * 4, rel=0.02)


@given(st.lists(st.floats(-5, 5), max_size=20), st.floats(0.5, 4), st.booleans())
@example([0.9] * 6 + [0.89] * 2, 3.0, False)
@example([0.25, 0.2501], 3.0, False)
def test_no_advantage_is_beyond_the_deviations(values, deviations, subtract_mean):
    found = filtered(values, RECIPE.Settings(deviations, subtract_mean))
    assert all(abs(value) <= deviations for value in found)


def test_the_rule_keeps_weights_and_leaves_out_responses_of_weight_0():
    kept = [make_rollouts("a", [1.0, 0.0], s0=[0.0]), make_rollouts("b", [1.0, 1.0, 0.0])]
    base = advantages_of(kept)
    base = replace(base, weights=torch.tensor([1.0, 1, 0, 1, 1], dtype=torch.float64))
    found = RECIPE.AdvantageFilter()(base, kept, step_facts(PAPER))
    assert torch.equal(found.weights, base.weights)
    counted = np.delete(base.values.numpy(), 2)
    wanted = (base.values.numpy() - counted.mean()) / counted.std()
    wanted[2] = 0
    assert found.values.tolist() == pytest.approx(wanted.tolist())


def test_no_deviation_is_refused():
    with pytest.raises(ValueError, match="deviations"):
        RECIPE.Settings(deviations=0.0, subtract_mean=True)


def original_loss(log_ratio, advantage):
    """The original's loss of a token and its gradient with respect to the log-ratio."""
    given = torch.tensor(log_ratio, dtype=torch.float64, requires_grad=True)
    ratio = given.clamp(np.log(1e-3), np.log(1e3)).exp()
    loss = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
    loss.backward()
    return loss.item(), given.grad.item()


@cache
def experiment():
    return compose(ROOT / "recipe" / "stable_reinforce", "stable_reinforce_qwen2_5_vl_7b")


@given(st.floats(-12, 12), st.floats(-3, 3))
@example(8.0, -1.0)
@example(-8.0, 1.0)
@example(6.9, -1.0)
def test_the_dual_clip_of_the_experiment_is_the_cut_of_the_original(log_ratio, advantage):
    """All but ratios below 0.001, where the loss and its gradient are below 0.001 of the advantage."""
    algorithm = experiment().algorithm
    chosen = PolicyLossSettings("clip", algorithm.clip_low, algorithm.clip_high, algorithm.dual_clip)
    logprobs = torch.tensor([log_ratio], dtype=torch.float64, requires_grad=True)
    layout = TokenLayout.packed(torch.tensor([1]))
    old, advantages = torch.zeros(1, dtype=torch.float64), torch.tensor([advantage], dtype=torch.float64)
    loss = policy_loss(logprobs, old, advantages, layout, chosen).token_losses.sum()
    loss.backward()
    wanted = original_loss(log_ratio, advantage)
    allowed = 1e-3 * abs(advantage) if log_ratio < np.log(1e-3) else 0.0
    assert (loss.item(), logprobs.grad.item()) == pytest.approx(wanted, abs=allowed + 1e-12, rel=1e-9)


def test_a_step_drops_the_advantage_of_the_outlier_and_still_counts_it():
    """p0 has the only difference that is large: its last response is 3.9 deviations away."""
    prompts, table = prompts_with({"p0": [0, 0, 0, 100], **{f"p{i}": [0, 1, 0, 1] for i in range(1, 8)}})
    rule = RECIPE.AdvantageFilter()
    hooks = step_hooks(advantage=(Named("stable_reinforce:AdvantageFilter", rule, PAPER),))
    made = replace(parts(table, anchor="none", per_update=8), hooks=hooks)
    made = replace(made, advantage=replace(made.advantage, normalize_std=False))
    one_step(made, prompts)
    trained = {prompt.prompt_id: prompt.responses for batch in made.trainer.batches for prompt in batch.prompts}
    values = np.array([-25, -25, -25, 75] + [-0.5, 0.5] * 14)  # of the step, with the mean 0
    std = values.std()
    assert 75 / std > 3 > 25 / std
    assert [r.advantage for r in trained["p0"]] == pytest.approx([-25 / std] * 3 + [0])
    assert [r.advantage for r in trained["p1"]] == pytest.approx([-0.5 / std, 0.5 / std] * 2)
    assert [r.weight for r in trained["p0"]] == [1] * 4
