"""recipe/vppo: which tokens stay in the loss, the weight of each response, and both in the objective."""

from __future__ import annotations

from dataclasses import replace
from math import ceil, exp

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mars.actor.objective import Objective
from mars.actor.rule_terms import RuleInputs, totals_of
from mars.actor.targets import RowTarget
from mars.algorithms.token_layout import TokenLayout
from mars.hooks.load import resolved
from mars.hooks.of_workers import image_transforms, token_rule
from mars.train_types import TrainResponse
from tests.builders import altered, train_config
from tests.shipped.recipes.recipe_files import ROOT, compose, item, module_of, reward_of
from tests.shipped.recipes.token_facts import facts_of

RECIPE = module_of("vppo")
SETTINGS = RECIPE.Settings(masked_share=0.5, images="all", cap=10.0, kept_share=0.4, lowest_weight=0.9, entropy=0.06)
CPU = torch.device("cpu")


def k3(difference):
    return min(exp(difference) - difference - 1, 10)


def applied(facts, *others, settings=SETTINGS):
    """The terms of one forward, with totals of it and the other forwards of the update, and these totals."""
    rule = RECIPE.SeeingTokens(settings)
    totals = totals_of([rule.measure(one) for one in (facts, *others)], CPU)
    return rule.apply(facts, totals), totals


def test_the_terms_by_hand(process_group):
    """A response of five tokens and one of two. Differences to the masked image, m - old:

    -1, 0, -3, 0, 1 with k3 = 1/e, 0, 2 + exp(-3), 0, e - 2; and 0, -7 with 0, 6 + exp(-7).
    ceil(0.4 x 5) = 2 tokens of the first and ceil(0.4 x 2) = 1 of the second stay.
    """
    old = torch.tensor([-1.0, -2.0, -0.5, -0.1, -4.0, -1.0, -0.5], dtype=torch.float64)
    masked = old + torch.tensor([-1.0, 0, -3, 0, 1, 0, -7], dtype=torch.float64)
    terms, totals = applied(facts_of(old.clone().requires_grad_(), masked, [5, 2], old=old, advantages=[1.0, -2.0]))
    assert terms.pg_weights.tolist() == [0, 0, 1, 0, 1, 0, 1]
    low, high = (exp(-1) + 2 + exp(-3) + exp(1) - 2) / 5, (6 + exp(-7)) / 2
    assert totals == {
        "low": pytest.approx(low), "high": pytest.approx(high), "sum": pytest.approx(low + high), "responses": 2,
    }  # fmt: skip
    # Scores 0 and 1 of their range, 0.5 in the mean: weights from 0.9 to 0.9 + 0.1 / 0.5.
    assert terms.advantages.tolist() == pytest.approx([0.9] * 5 + [-2 * 1.1] * 2)
    assert terms.extra_loss.tolist() == pytest.approx([0.06, 0.12, 0.03, 0.006, 0.24, 0.06, 0.03])
    assert float(terms.means["highest_weight"][0]) == pytest.approx(1.1)
    assert [float(x) for x in terms.means["dependency"]] == pytest.approx([5 * low + 2 * high, 7])
    assert [float(x) for x in terms.means["dependency_of_kept"]] == pytest.approx(
        [2 + exp(-3) + exp(1) - 2 + 6 + exp(-7), 3]
    )


def test_responses_without_images_train_as_without_vppo_and_leave_the_others_as_they_are(process_group):
    """A response of three tokens has no image. Log-probs of its pass differ all the same, by rounding or weights."""
    old, masked = -torch.ones(5, dtype=torch.float64), torch.tensor([-1.0, 2, 1, -1, 0], dtype=torch.float64)
    alone, totals_alone = applied(facts_of(old, masked, [3, 2], advantages=[1.0, -2.0]))
    texts = torch.tensor([-1.0, 4.0, -1.0], dtype=torch.float64)
    mixed = facts_of(
        torch.cat([-torch.ones(3, dtype=torch.float64), old]), torch.cat([texts, masked]), [3, 3, 2],
        advantages=[3.0, 1.0, -2.0], trained=[True, True, False] + [True] * 5, with_images=[False, True, True],
    )  # fmt: skip
    terms, totals = applied(mixed)
    assert totals == totals_alone
    assert terms.pg_weights.tolist() == [1, 1, 0, *alone.pg_weights.tolist()]
    assert terms.advantages.tolist() == [3, 3, 0, *alone.advantages.tolist()]
    assert {name: [float(x) for x in mean] for name, mean in terms.means.items()} == {
        name: [float(x) for x in mean] for name, mean in alone.means.items()
    }
    assert terms.extra_loss.tolist() == pytest.approx([0.06] * 2 + [0] + [0.06] * 5)


def test_an_update_without_any_image_has_no_filter_and_no_weights(process_group):
    old = torch.tensor([-1.0, -1.0, -1.0])
    terms, totals = applied(
        facts_of(old, old + torch.tensor([0.0, 1.0, 2.0]), [2, 1], advantages=[1.0, 2.0], with_images=[False, False])
    )
    assert (totals["responses"], totals["sum"]) == (0, 0)
    assert terms.pg_weights.tolist() == [1, 1, 1]
    assert terms.advantages.tolist() == [1, 1, 2]
    assert [float(x) for x in terms.means["dependency"]] == [0, 0]
    assert [float(x) for x in terms.means["dependency_of_kept"]] == [0, 0]
    assert float(terms.means["highest_weight"][0]) == 1


def test_settings_of_the_step_are_those_of_its_ramps(process_group):
    """Three tokens with dependency 0 to 2; with a share of 1 all stay."""
    old = torch.tensor([-1.0, -1.0, -1.0])
    facts = facts_of(old, old + torch.tensor([0.0, 1.0, 2.0]), [3])
    ramped = {
        "recipe.settings.vppo.kept_share": 1.0,
        "recipe.settings.vppo.entropy": 0.5,
        "recipe.settings.vppo.cap": 1.0,
    }
    terms, totals = applied(replace(facts, settings=ramped))
    assert terms.pg_weights.tolist() == [1, 1, 1]
    assert terms.extra_loss.tolist() == pytest.approx([0.5] * 3)
    assert totals["high"] == pytest.approx((0 + (exp(1) - 2) + 1) / 3)
    assert applied(facts)[0].pg_weights.tolist() == [0, 1, 1]


def test_a_loss_counts_the_tokens_that_are_filtered_out(process_group):
    """One response, A = 2, of whose two tokens ceil(0.4 x 2) = 1 stays. The weight of a single response is 1."""
    algorithm = altered(train_config(kl_reference=None).algorithm, kl_coefficient=0.0)
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    extra = {"masked": torch.tensor([-1.0, -3.0])}
    _, totals = applied(facts_of(logprobs.detach(), extra["masked"], [2]))
    rule = RuleInputs(RECIPE.SeeingTokens(SETTINGS), extra, totals, {})
    row = RowTarget(TrainResponse((1, 1), (-1.0, -2.0), 2.0, 1.0), 1.0, carried=False, with_images=True)
    loss, sums = Objective(algorithm, 0.0).loss(
        logprobs, torch.ones(2), None, None, torch.tensor([2]), [row], 2.0, False, rule
    )
    assert float(sums.pg_loss) == pytest.approx(-2 / 2)
    assert float(sums.rule_loss) == pytest.approx(0.06 * (1 + 2) / 2)
    loss.backward()
    assert logprobs.grad.tolist() == pytest.approx([-0.06 / 2, (-2 - 0.06) / 2])


DIFFERENCES = st.integers(-100, 100).map(lambda quarter: quarter / 4)  # so that roundings cannot change the order
RESPONSES = st.lists(st.lists(st.tuples(DIFFERENCES, st.booleans()), min_size=1, max_size=7), min_size=1, max_size=5)


def facts_of_responses(responses, advantages):
    tokens = [token for response in responses for token in response]
    old = -torch.ones(len(tokens), dtype=torch.float64)
    masked = old + torch.tensor([difference for difference, _ in tokens], dtype=torch.float64)
    lengths, trained = [len(response) for response in responses], [one for _, one in tokens]
    return facts_of(old, masked, lengths, advantages=advantages, trained=trained)


def by_loops(responses, advantages, settings):
    """Advantages and kept tokens, response after response."""
    scores = [[k3(max(min(d, 20), -20)) for d, trained in one if trained] for one in responses]
    means = [np.mean(one) for one in scores if one]
    low, width = (min(means), max(means) - min(means)) if means else (0, 0)
    found, kept = [], []
    for one, response, advantage in zip(scores, responses, advantages, strict=True):
        weight = 1.0
        if one and width > 1e-6:
            ranges = [(mean - low) / width for mean in means]
            highest = settings.lowest_weight + (1 - settings.lowest_weight) / (np.mean(ranges) + 1e-8)
            weight = settings.lowest_weight + (np.mean(one) - low) / width * (highest - settings.lowest_weight)
        best = sorted(range(len(one)), key=lambda i: (-one[i], i))[: ceil(settings.kept_share * len(one) - 1e-9)]
        places = [i for i, (_, trained) in enumerate(response) if trained]
        kept += [int(i in {places[k] for k in best}) for i in range(len(response))]
        found += [advantage * weight if trained else 0 for _, trained in response]
    return found, kept


@given(RESPONSES, st.sampled_from([0.1, 0.4, 0.5, 0.9, 1.0]), st.integers(0, 4))
def test_the_terms_are_those_of_loops_for_any_division_into_forwards(process_group, responses, share, first):
    settings = replace(SETTINGS, kept_share=share)
    advantages = [1.0, -0.5, 2.0, 0.0, -3.0][: len(responses)]
    parts = [(responses[:first], advantages[:first]), (responses[first:], advantages[first:])]
    one, other = (facts_of_responses(*part) for part in parts)
    both = [applied(one, other, settings=settings)[0], applied(other, one, settings=settings)[0]]
    wanted, kept = by_loops(responses, advantages, settings)
    assert [x for terms in both for x in terms.advantages.tolist()] == pytest.approx(wanted, abs=1e-9)
    assert [x for terms in both for x in terms.pg_weights.tolist()] == kept


@given(st.integers(1, 100), st.integers(1, 400))
def test_a_share_of_the_tokens_is_rounded_up_exactly(percent, count):
    """Of 25 tokens a share of 0.6 keeps 15. Against whole numbers, which have no rounding."""
    layout = TokenLayout.packed(torch.tensor([3, count]))
    kept = RECIPE.largest(torch.arange(3.0 + count), layout, percent / 100)
    assert kept.tolist() == [i >= n - (percent * n + 99) // 100 for n in (3, count) for i in range(n)], (
        "the last ones are the largest"
    )


def test_three_fifths_of_25_tokens_are_15():
    kept = RECIPE.largest(torch.arange(25.0), TokenLayout.packed(torch.tensor([25])), 0.6)
    assert int(kept.sum()) == 15


@given(st.lists(st.floats(0, 10), min_size=2, max_size=20), st.floats(0, 1))
def test_weights_are_1_in_the_mean_and_grow_with_the_score(scores, lowest):
    totals = {"low": min(scores), "high": max(scores), "sum": sum(scores), "responses": len(scores)}
    weights = RECIPE.response_weights(torch.tensor(scores, dtype=torch.float64), totals, lowest).tolist()
    assert np.mean(weights) == pytest.approx(1, abs=1e-5)
    assert min(weights) >= min(lowest, 1) - 1e-9
    order = np.argsort(scores, kind="stable")
    assert all(b >= a - 1e-9 for a, b in zip(np.array(weights)[order], np.array(weights)[order][1:], strict=False))


def test_the_reward_is_the_accuracy_alone():
    for text, accuracy in [("<think>so</think>\\boxed{4}", 1), ("\\boxed{4}", 1), ("<think>so</think>\\boxed{5}", 0)]:
        result = reward_of("vppo", "score")(item(text, "4"))
        assert (result.score, result.accuracy, result.parts) == (accuracy, accuracy, {"accuracy": accuracy})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masked_share": 0.0}, "masked_share and kept_share must be above 0"),
        ({"kept_share": 1.1}, "masked_share and kept_share must be above 0 and at most 1"),
        ({"images": "none"}, 'images must be "all" or "one"'),
        ({"lowest_weight": 1.5}, "lowest_weight must be within 0 to 1"),
        ({"entropy": -0.1}, "entropy must not be negative"),
        ({"cap": 0.0}, "cap must be above 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **change)


def test_a_run_makes_the_rule_and_the_transform_with_the_settings_of_the_experiment():
    config = compose(ROOT / "recipe" / "vppo", "vppo_qwen2_5_vl_7b", "recipe.settings.vppo.images=one")
    recipe = resolved(config.recipe)
    rule = token_rule(recipe, with_reference=False, ramps=[])
    assert rule is not None
    assert rule.measures
    assert [(one.transform, one.images, one.gradient) for one in rule.passes] == [("masked", "one", False)]
    assert set(image_transforms(recipe, ramps=[])) == {"masked"}
