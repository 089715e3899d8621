"""recipe/papo: the terms of the loss, their gradients, the reward, and settings that cannot be."""

from __future__ import annotations

from dataclasses import replace
from math import exp

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mars.actor.objective import Objective
from mars.actor.rule_terms import RuleInputs
from mars.actor.targets import RowTarget
from mars.config.ramp_section import Ramp
from mars.hooks.load import resolved
from mars.hooks.of_workers import image_transforms, token_rule
from mars.train_types import TrainResponse
from tests.builders import altered, train_config
from tests.hook_builders import loaded_hooks
from tests.shipped.recipes.recipe_files import ROOT, compose, item, module_of, reward_of
from tests.shipped.recipes.token_facts import facts_of

RECIPE = module_of("papo")
SETTINGS = RECIPE.Settings(
    masked_share=0.6, images="all", gamma=0.02, cap=10.0, entropy=0.05, masked_entropy=0.0, through_masked=False
)


def applied(logprobs, masked, lengths, settings=SETTINGS, **named):
    return RECIPE.PerceptionLoss(settings).apply(facts_of(logprobs, masked, lengths, **named), {})


def test_the_terms_by_hand():
    """Three tokens of p = -1, -8, -2. For the masked image -2 (k3 = 1/e), -1 (k3 = exp(7) - 8: cut at 10), -2 (0)."""
    logprobs = torch.tensor([-1.0, -8.0, -2.0], dtype=torch.float64, requires_grad=True)
    masked = torch.tensor([-2.0, -1.0, -2.0], dtype=torch.float64)
    terms = applied(logprobs, masked, [2, 1])
    assert terms.extra_loss.tolist() == pytest.approx([-0.02 * exp(-1) + 0.05 * 1, -0.02 * 10 + 0.05 * 8, 0.05 * 2])
    terms.extra_loss.sum().backward()
    assert logprobs.grad.tolist() == pytest.approx([-0.02 * (1 - exp(-1)) - 0.05, -0.05, -0.05])
    assert {name: (float(total), int(count)) for name, (total, count) in terms.means.items()} == {
        "perception_kl": (pytest.approx(exp(-1) + 10), 3),
        "perception_capped": (1.0, 3),
    }
    assert (terms.advantages, terms.pg_weights) == (None, None)


def test_a_prompt_without_images_has_the_entropy_term_alone():
    """Its masked pass has the log-prob before the first update, -1, and p is -1.2 by now: k3 = 0.021, which is no term.

    A response with images beside it, of p = -1 and m = -2, has k3 = 1/e.
    """
    settings = replace(SETTINGS, masked_entropy=0.03, through_masked=True)
    logprobs = torch.tensor([-1.2, -1.0], dtype=torch.float64, requires_grad=True)
    masked = torch.tensor([-1.0, -2.0], dtype=torch.float64, requires_grad=True)
    terms = applied(logprobs, masked, [1, 1], settings, with_images=[False, True])
    assert terms.extra_loss.tolist() == pytest.approx([0.05 * 1.2, -0.02 * exp(-1) + 0.05 * 1 + 0.03 * 2])
    terms.extra_loss.sum().backward()
    assert (float(logprobs.grad[0]), float(masked.grad[0])) == (pytest.approx(-0.05), 0.0)
    means = {name: (float(total), int(count)) for name, (total, count) in terms.means.items()}
    assert means == {"perception_kl": (pytest.approx(exp(-1)), 1), "perception_capped": (0.0, 1)}


def test_the_terms_with_a_gradient_through_the_masked_image():
    """p = -1, m = -2, d = -1. Of -gamma k3: (exp(d) - 1) gamma to p, and -(exp(d) - 1) gamma to m."""
    settings = replace(SETTINGS, masked_entropy=0.03, through_masked=True)
    logprobs = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    masked = torch.tensor([-2.0], dtype=torch.float64, requires_grad=True)
    terms = applied(logprobs, masked, [1], settings)
    assert float(terms.extra_loss.detach()) == pytest.approx(-0.02 * exp(-1) + 0.05 * 1 + 0.03 * 2)
    terms.extra_loss.sum().backward()
    assert float(logprobs.grad) == pytest.approx(0.02 * (exp(-1) - 1) - 0.05)
    assert float(masked.grad) == pytest.approx(-0.02 * (exp(-1) - 1) - 0.03)
    assert [one.gradient for one in RECIPE.PerceptionLoss(settings).passes] == [True]
    assert [one.gradient for one in RECIPE.PerceptionLoss(SETTINGS).passes] == [False]


def test_the_weight_of_the_perception_term_can_change_during_a_run():
    """p = -1, m = -2: the term is gamma / e, and the entropy term stays."""
    facts = facts_of(torch.tensor([-1.0]), torch.tensor([-2.0]), [1])
    for gamma in (0.0, 0.01, 0.3):
        now = replace(facts, settings={"recipe.settings.papo.gamma": gamma, "algorithm.clip_high": 0.25})
        terms = RECIPE.PerceptionLoss(SETTINGS).apply(now, {})
        assert float(terms.extra_loss) == pytest.approx(-gamma * exp(-1) + 0.05)


@given(st.lists(st.tuples(st.floats(-60, 0), st.floats(-60, 0)), min_size=1, max_size=6))
def test_the_perception_term_is_bounded_and_never_draws_the_policy_to_the_masked_image(tokens):
    logprobs = torch.tensor([p for p, _ in tokens], dtype=torch.float64, requires_grad=True)
    masked = torch.tensor([m for _, m in tokens], dtype=torch.float64)
    terms = applied(logprobs, masked, [len(tokens)], replace(SETTINGS, entropy=0.0))
    assert ((terms.extra_loss >= -0.02 * 10 - 1e-12) & (terms.extra_loss <= 0)).all()
    terms.extra_loss.sum().backward()
    moved = -logprobs.grad * (logprobs.detach() - masked)  # a step against the gradient leads away from `masked`
    assert torch.isfinite(moved).all()
    assert (moved >= 0).all()


def test_tokens_that_are_not_trained_on_count_nowhere():
    logprobs = torch.tensor([-1.0, -1.0, -1.0])
    terms = applied(logprobs, torch.tensor([-2.0, -30.0, -2.0]), [2, 1], trained=[True, False, True])
    assert terms.means["perception_kl"][0] == pytest.approx(2 * exp(-1))
    assert (terms.means["perception_kl"][1], terms.means["perception_capped"][0]) == (2, 0)
    empty = applied(torch.zeros(0), torch.zeros(0), [])
    assert [float(total) for total, _ in empty.means.values()] == [0, 0]


def test_a_loss_with_the_terms_by_hand(process_group):
    """A = 2 over two tokens, ratio 1, token mean; weight 1. -2 + the mean of the terms."""
    algorithm = altered(train_config(kl_reference=None).algorithm, kl_coefficient=0.0)
    logprobs, masked = torch.tensor([-1.0, -2.0], requires_grad=True), torch.tensor([-2.0, -2.0])
    rule = RuleInputs(RECIPE.PerceptionLoss(SETTINGS), {"masked": masked}, {}, {})
    row = RowTarget(TrainResponse((1, 1), (-1.0, -2.0), 2.0, 1.0), 1.0, carried=False, with_images=True)
    loss, sums = Objective(algorithm, 0.0).loss(
        logprobs, torch.ones(2), None, None, torch.tensor([2]), [row], 2.0, False, rule
    )
    terms = (-0.02 * exp(-1) + 0.05 * 1 + 0.05 * 2) / 2
    assert float(loss.detach()) == pytest.approx(-2 + terms)
    assert float(sums.rule_loss) == pytest.approx(terms)
    loss.backward()
    assert logprobs.grad.tolist() == pytest.approx([(-2 - 0.02 * (1 - exp(-1)) - 0.05) / 2, (-2 - 0.05) / 2])


@pytest.mark.parametrize(
    ("text", "score", "accuracy"),
    [
        ("<think>two and two</think> It is \\boxed{4}.", 1.0, 1),
        ("<think>so</think>\\boxed{5}", 0.1, 0),
        ("So: <think>so</think>\\boxed{4}", 0.9, 1),
        ("\\boxed{4} <think>so</think>", 0.9, 1),
        ("<think>so</think> 4", 0.0, 0),
        ("<think>so</think>\\boxed{4} or \\boxed{5}", 0.1, 0),
        ("", 0.0, 0),
    ],
)
def test_the_reward_by_hand(text, score, accuracy):
    result = reward_of("papo", "score")(item(text, "4"))
    assert (result.score, result.accuracy) == (pytest.approx(score), accuracy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masked_share": 0.0}, "masked_share must be above 0"),
        ({"masked_share": 1.5}, "masked_share must be above 0 and at most 1"),
        ({"images": "first"}, 'images must be "all" or "one"'),
        ({"gamma": -0.1}, "must not be negative"),
        ({"cap": 0.0}, "cap must be above 0"),
        ({"masked_entropy": 0.05}, "no gradient without through_masked"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **change)


def test_a_run_makes_the_rule_and_the_transform_with_the_settings_of_the_experiment():
    config = compose(ROOT / "recipe" / "papo", "papo_d_qwen2_5_vl_7b", "recipe.settings.papo.images=one")
    recipe = resolved(config.recipe)
    rule = token_rule(recipe, with_reference=False, ramps=[])
    assert rule is not None
    (only,) = rule.passes
    assert (only.transform, only.images, only.gradient) == ("masked", "one", False)
    assert set(image_transforms(recipe, ramps=[])) == {"masked"}
    for name in rule.ramps:
        ramp = Ramp(
            key=f"recipe.settings.papo.{name}", first=0.5, last=0.5, start=1, steps=1, shape="linear", slope=None
        )
        if name != "masked_entropy":  # which needs through_masked
            loaded_hooks(recipe, ramps=[ramp])
    assert (config.algorithm.selection, config.algorithm.kl_coefficient) == ("nonzero_advantage", 0.0)
