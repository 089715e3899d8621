"""recipe/vogue: the estimate of the two-way KL, the bonus of noisy tokens, and which branch a step trains."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mars.actor.rule_passes import with_transform
from mars.algorithms.pooled_rewards import PooledRewards
from mars.algorithms.token_layout import TokenLayout
from mars.algorithms.token_rule import TokenFacts
from mars.hooks.load import resolved
from mars.hooks.step_hooks import Named
from mars.image_transform import TransformedImage
from mars.rewards.contract import failed_result
from mars.train_types import TrainBatch, TrainPrompt
from mars.types import RewardResult
from tests.builders import make_prompt
from tests.fakes.requests import with_requests
from tests.fakes.step import GRPO, IMAGE, TableScorer, one_step, parts
from tests.hook_builders import hooks_of_config, step_facts, step_hooks
from tests.shipped.recipes.recipe_files import FOLDERS, compose, module_of

RECIPE = module_of("vogue")
FOLDER = next(folder for folder in FOLDERS if folder.name == "vogue")
SETTINGS = RECIPE.Settings(samples=2, noisy_share=1.0, steps=450, uncertainty=0.1, entropy=0.01, max_uncertainty=1.0)


def asked(prompt, step=1, **changes):
    return RECIPE.NoisyBranch().before(prompt, step_facts(replace(SETTINGS, **changes), step, seed=7))


def test_the_uncertainty_of_a_token_by_hand():
    """Probability 1/2 given the clean image and 1/4 given the noisy one; then the same number for both."""
    clean, noisy = torch.tensor([0.5, 0.5, 0.3]).log(), torch.tensor([0.25, 0.25, 0.3]).log()
    found = RECIPE.uncertainty(clean, noisy, torch.tensor([False, True, True])).tolist()
    from_clean = (0.25 / 0.5 - 1) * math.log(0.25 / 0.5) / 2
    from_noisy = (0.5 / 0.25 - 1) * math.log(0.5 / 0.25) / 2
    assert found == pytest.approx([from_clean, from_noisy, 0.0])
    assert [from_clean, from_noisy] == pytest.approx([math.log(2) / 4, math.log(2) / 2])


SHARES = st.lists(st.integers(1, 99), min_size=4, max_size=4)


@given(SHARES, SHARES)
def test_its_mean_over_sampled_tokens_is_the_kl_both_ways(clean, noisy):
    """Over a vocabulary of four tokens, exactly, from either image; never negative."""
    p, q = ([x / sum(shares) for x in shares] for shares in (clean, noisy))
    exact = 0.0
    for a, b in zip(p, q, strict=True):
        exact += (a * math.log(a / b) + b * math.log(b / a)) / 2
    logs = torch.tensor([p, q], dtype=torch.float64).log()
    for sampled_from, from_noisy in ((p, False), (q, True)):
        found = RECIPE.uncertainty(*logs, torch.full((4,), from_noisy))
        assert bool((found >= 0).all())
        assert sum(x * float(u) for x, u in zip(sampled_from, found, strict=True)) == pytest.approx(exact, abs=1e-9)


@given(st.floats(-1e4, 0), st.floats(-1e4, 0))
def test_it_is_finite_however_far_the_two_are_apart(clean, noisy):
    found = RECIPE.uncertainty(torch.tensor([clean] * 2), torch.tensor([noisy] * 2), torch.tensor([False, True]))
    assert bool(torch.isfinite(found).all())


def facts_of(clean, noisy, off_policy, mask, settings=None, guests=None):
    count = len(clean)
    layout = TokenLayout(torch.tensor(mask, dtype=torch.bool), torch.zeros(count, dtype=torch.int64), 1)
    return TokenFacts(
        logprobs=torch.tensor(clean), old=torch.tensor(clean), reference=None, entropy=torch.full((count,), 2.0),
        extra={"noisy": torch.tensor(noisy)}, advantages=torch.full((count,), -1.5),
        off_policy=torch.tensor(off_policy, dtype=torch.bool),
        guests=torch.tensor(guests or [False] * count, dtype=torch.bool),
        with_images=torch.tensor(mask, dtype=torch.bool),
        layout=layout, settings=settings or {},
    )  # fmt: skip


def test_only_noisy_tokens_get_the_bonuses():
    """A clean token, a noisy one with u = ln 2 / 2, one far apart whose u is bounded to 1, and an untrained one.

    The bonuses are 0.1 u + 0.01 x 2 nats of entropy.
    """
    half, quarter = math.log(0.5), math.log(0.25)
    facts = facts_of(
        [half, half, -1.0, 0.0], [quarter, quarter, -9.0, 0.0], [False, True, True, False], [True, True, True, False]
    )
    terms = RECIPE.NoisyBonus(SETTINGS).apply(facts, {})
    u = math.log(2) / 2
    assert terms.advantages.tolist() == pytest.approx([-1.5, -1.5 + 0.1 * u + 0.02, -1.5 + 0.1 + 0.02, -1.5])
    assert (terms.pg_weights, terms.extra_loss) == (None, None)
    means = {name: (float(total), int(count)) for name, (total, count) in terms.means.items()}
    assert means == {
        "uncertainty_clean": (pytest.approx(math.log(2) / 4), 1), "uncertainty_noisy": (pytest.approx(u + 1.0), 2),
    }  # fmt: skip


def test_a_guest_of_the_anchors_is_no_noisy_response():
    """It was sampled from clean images, so it gets no bonus and counts as clean: u = ln 2 / 4."""
    half, quarter = math.log(0.5), math.log(0.25)
    terms = RECIPE.NoisyBonus(SETTINGS).apply(facts_of([half], [quarter], [True], [True], guests=[True]), {})
    assert terms.advantages.tolist() == [-1.5]
    means = {name: (float(total), int(count)) for name, (total, count) in terms.means.items()}
    assert means == {"uncertainty_clean": (pytest.approx(math.log(2) / 4), 1), "uncertainty_noisy": (0.0, 0)}


def test_a_factor_of_a_bonus_may_be_a_ramp():
    half, quarter = math.log(0.5), math.log(0.25)
    now = {"recipe.settings.vogue.uncertainty": 0.4, "recipe.settings.vogue.entropy": 0.0}
    terms = RECIPE.NoisyBonus(SETTINGS).apply(facts_of([half], [quarter], [True], [True], now), {})
    assert terms.advantages.tolist() == pytest.approx([-1.5 + 0.4 * math.log(2) / 2])
    ramp = (
        "{key: recipe.settings.vogue.uncertainty, first: 0.4, last: 0, start: 1, steps: 9, shape: linear, slope: null}"
    )
    assert [ramp.at(1) for ramp in compose(FOLDER, "vogue_tiny", f"ramps=[{ramp}]").ramps] == [0.4]


def test_a_forward_without_tokens_has_no_terms():
    terms = RECIPE.NoisyBonus(SETTINGS).apply(facts_of([], [], [], []), {})
    assert terms.advantages.shape == (0,)
    assert {int(count) for _, count in terms.means.values()} == {0}


@given(st.integers(0, 50), st.integers(1, 10**6), st.floats(0, 1), st.floats(0, 1))
def test_a_prompt_that_is_drawn_is_drawn_with_a_larger_share_too(number, step, one, other):
    prompt = make_prompt(f"p{number}", [IMAGE])
    drawn = [bool(asked(prompt, step, noisy_share=share)) for share in sorted((one, other))]
    assert drawn != [True, False]
    assert (bool(asked(prompt, step, noisy_share=0.0)), bool(asked(prompt, step, noisy_share=1.0))) == (False, True)


def test_the_share_of_drawn_prompts_is_the_probability():
    """Of 1000 prompts 300 are expected, with a deviation of sqrt(1000 x 0.3 x 0.7) = 14.5; each step draws anew."""
    prompts = [make_prompt(f"p{i}", [IMAGE]) for i in range(1000)]
    drawn = [{p.prompt_id for p in prompts if asked(p, step, noisy_share=0.3)} for step in (1, 1, 2)]
    assert 240 < len(drawn[0]) < 360
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_trainer_scores_responses_with_the_noise_that_they_were_sampled_with():
    prompt = make_prompt("p0", [IMAGE] * 2)
    (extra,) = asked(prompt, step=5)
    assert all(isinstance(image, TransformedImage) for image in extra.images)
    (one,) = RECIPE.NoisyBonus.passes
    batch = TrainBatch((TrainPrompt("p0", (1,), 1, (IMAGE, IMAGE), (), 1.0),), (), step=5)
    changed = with_transform(batch, one.transform, one.strength, one.images, (7, batch.step, one.name))
    assert changed.prompts[0].images == extra.images
    config = compose(FOLDER, "vogue_tiny", "run.seed=7")  # which the trainer's key has
    hooks = hooks_of_config(config.model_copy(update={"recipe": resolved(config.recipe)}), 20)
    (as_in_a_run,) = next(found for step in range(1, 99) if (found := hooks.asked_before(prompt, step)))
    (wanted,) = next(found for step in range(1, 99) if (found := asked(prompt, step, noisy_share=0.25)))
    assert as_in_a_run.images == wanted.images


class ByImages(TableScorer):
    """Clean responses score 0 and 1, noisy ones 3; None fails."""

    def __init__(self, noisy):
        super().__init__({})
        self.noisy = noisy

    def _score(self, item):
        score = self.noisy if item.extra == "noisy" else float(int(item.response) % 2)
        return failed_result("raised") if score is None else RewardResult(score, min(score, 1.0), {"part": score})


def stepped(prompts, settings=SETTINGS, noisy=3.0, **given):
    hooks = step_hooks(
        requests=Named("vogue:NoisyBranch", RECIPE.NoisyBranch(), settings),
        advantage=(Named("vogue:OneBranch", RECIPE.OneBranch(), settings),),
    )
    made = replace(with_requests(parts({}, samples=2, **given), hooks), scorer=ByImages(noisy))
    return made, one_step(made, prompts)


def test_a_step_trains_one_branch_of_a_prompt():
    """Of p0 with noise: rewards 0, 1, 3, 3 with mean 7/4 and deviation 3/2; the clean responses are left out.

    p1 has no images, so it has no noisy branch: rewards 0, 1 with mean 1/2 and deviation sqrt(1/2).
    """
    made, result = stepped([make_prompt("p0", [IMAGE] * 2), make_prompt("p1", [])], anchor="none")
    noisy, clean = made.trainer.batches[0].prompts
    assert [r.advantage for r in noisy.responses] == pytest.approx([5 / 6, 5 / 6], rel=1e-5)
    assert [(r.off_policy, r.bounded, r.weight) for r in noisy.responses] == [(True, True, 1.0)] * 2
    assert noisy.images == (IMAGE, IMAGE)
    assert [r.advantage for r in clean.responses] == pytest.approx([-(0.5**0.5), 0.5**0.5], rel=1e-5)
    assert [r.off_policy for r in clean.responses] == [False] * 2
    assert result.metrics["extra/noisy/responses"] == 2


def test_weights_that_responses_have_already_are_kept():
    _, result = stepped([make_prompt("p0", [IMAGE])], anchor="none")
    base = PooledRewards.of_rollouts(result.rollouts).advantages(GRPO)
    base = replace(base, weights=base.weights.new_tensor([0.5, 0.5, 0.25, 0.0]))
    found = RECIPE.OneBranch()(base, result.rollouts, step_facts(SETTINGS))
    assert found.weights.tolist() == [0.0, 0.0, 0.25, 0.0]
    assert found.values is base.values


def test_where_all_noisy_responses_are_left_out_the_clean_ones_are_trained():
    """As algorithm.truncated_responses=mask leaves out responses that are too long."""
    _, result = stepped([make_prompt("p0", [IMAGE]), make_prompt("p1", [IMAGE])], anchor="none")
    base = PooledRewards.of_rollouts(result.rollouts).advantages(GRPO)
    base = replace(base, weights=base.weights.new_tensor([1.0, 0.5, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0]))
    found = RECIPE.OneBranch()(base, result.rollouts, step_facts(SETTINGS))
    assert found.weights.tolist() == [1.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]


def test_a_prompt_without_a_valid_noisy_response_trains_the_clean_ones():
    made, _ = stepped([make_prompt("p0", [IMAGE])], noisy=None, anchor="none")
    (trained,) = made.trainer.batches[0].prompts
    assert [(r.off_policy, r.weight) for r in trained.responses] == [(False, 1.0)] * 2


def test_with_share_0_a_step_is_the_same_without_the_recipe():
    prompts = [make_prompt("p0", [IMAGE] * 2), make_prompt("p1", [IMAGE])]
    made, _ = stepped(prompts, replace(SETTINGS, noisy_share=0.0))
    plain = replace(parts({}, samples=2), scorer=ByImages(3.0))
    one_step(plain, prompts)
    assert made.engine.requests == plain.engine.requests
    assert made.trainer.batches == plain.trainer.batches


def test_anchors_are_clean_and_in_the_pool():
    """Anchors of two sources score 0 and 1: the pool 0, 1, 3, 3, 0, 1, 0, 1 has mean 9/8."""
    made, _ = stepped([make_prompt("p0", [IMAGE] * 2)], anchor="mono", anchor_samples=2)
    assert [r.images for r in made.engine.requests if r.view is not None] == [(IMAGE,), (IMAGE,)]
    std = (sum((r - 9 / 8) ** 2 for r in [0, 1, 3, 3, 0, 1, 0, 1]) / 7) ** 0.5
    (trained,) = made.trainer.batches[0].prompts
    assert [r.advantage for r in trained.responses] == pytest.approx([(3 - 9 / 8) / std] * 2, rel=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"samples": 0}, "samples must be at least 1"),
        ({"steps": 1001}, "steps within 0 to 1000"),
        ({"noisy_share": 1.5}, "noisy_share within 0 to 1"),
        ({"max_uncertainty": 0.0}, "max_uncertainty must be above 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        replace(SETTINGS, **wrong)
