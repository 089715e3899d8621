"""recipe/noisy_rollout: which noise a prompt is asked with, its decay, and one group for clean and noisy responses."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mars.hooks.load import resolved
from mars.hooks.step_hooks import Named
from mars.image_transform import TransformedImage
from mars.types import RewardResult
from tests.builders import make_prompt
from tests.fakes.requests import with_requests
from tests.fakes.step import IMAGE, TableScorer, one_step, parts
from tests.hook_builders import hooks_of_config, step_facts, step_hooks
from tests.shipped.recipes.recipe_files import FOLDERS, compose, module_of

RECIPE = module_of("noisy_rollout")
FOLDER = next(folder for folder in FOLDERS if folder.name == "noisy_rollout")
SETTINGS = RECIPE.Settings(samples=2, steps=450, strength=1.0)


def asked(prompt, step=1, seed=7, **changes):
    (extra,) = RECIPE.NoisyRollouts().before(prompt, step_facts(replace(SETTINGS, **changes), step, seed=seed))
    return extra


def ramp_of(name):
    (ramp,) = compose(FOLDER, name).ramps
    return ramp


def test_the_strength_falls_as_in_the_paper():
    """1 - 1 / (1 + exp(-60 (step - 40) / 120)): t of 450 is 449, 396, 225, 53 and 0 in the steps 1, 36, 40, 44, 80."""
    ramp = ramp_of("noisy_rollout_qwen2_5_vl_7b")
    assert ramp.key == "recipe.settings.noisy_rollout.strength"
    strengths = [ramp.at(step) for step in (1, 36, 40, 44, 80)]
    assert strengths[1] == pytest.approx(1 - 1 / (1 + math.exp(2.0)))  # -60 (36 - 40) / 120 = 2
    assert strengths[2] == 0.5
    assert [int(450 * strength) for strength in strengths] == [449, 396, 225, 53, 0]
    assert compose(FOLDER, "noisy_rollout_qwen2_5_vl_7b", "run.num_steps=60").ramps[0].steps == 60


@given(st.integers(0, 1000), st.floats(0, 1))
def test_images_are_as_they_are_once_no_diffusion_step_is_left(steps, strength):
    extra = asked(make_prompt("p", [IMAGE] * 2), steps=steps, strength=strength)
    changed = [isinstance(image, TransformedImage) for image in extra.images]
    assert changed == [steps * strength >= 1] * 2


def test_every_image_step_and_prompt_has_its_own_noise_and_the_same_when_asked_again():
    prompts = [make_prompt(name, [IMAGE] * 2) for name in "pq"]
    seeds = {
        (prompt.prompt_id, step, i): image.transforms[0].seed
        for prompt in prompts
        for step in (1, 2)
        for i, image in enumerate(asked(prompt, step).images)
    }
    assert len(set(seeds.values())) == len(seeds) == 8
    assert asked(prompts[0]) == asked(prompts[0]) != asked(prompts[0], seed=8)
    (call,) = asked(prompts[0], strength=0.5).images[0].transforms
    assert (call.name, call.strength) == ("noise", 0.5)
    config = compose(FOLDER, "noisy_rollout_tiny", "run.seed=5", "ramps=[]")
    hooks = hooks_of_config(config.model_copy(update={"recipe": resolved(config.recipe)}))
    (extra,) = hooks.asked_before(prompts[0], 1)
    assert extra.images == asked(prompts[0], seed=5).images
    assert list(config.recipe.transforms) == ["noise"]


def test_the_noise_is_that_of_the_forward_process():
    """A grey image keeps its mean times sqrt(a_225), and gets a deviation of sqrt(1 - a_225).

    a_225 is the product of 1 - (1e-5 + (5e-3 - 1e-5) / (1 + exp(6 - 12 i / 999))) for i = 0 .. 225, in a plain loop.
    """
    kept = 1.0
    for i in range(226):
        kept *= 1 - (1e-5 + (5e-3 - 1e-5) / (1 + math.exp(6 - 12 * i / 999)))
    grey = Image.new("RGB", (128, 128), (128, 128, 128))
    noisy = np.asarray(RECIPE.noise(SETTINGS)(grey, np.random.default_rng(0), 0.5), dtype=np.float64)
    assert noisy.mean() == pytest.approx(128 * kept**0.5, abs=1.0)
    assert noisy.std() == pytest.approx(255 * (1 - kept) ** 0.5, rel=0.02)


class ByImages(TableScorer):
    """Clean responses score 0 and 1, noisy ones 3."""

    def _score(self, item):
        score = 3.0 if item.extra == "noisy" else float(int(item.response) % 2)
        return RewardResult(score, min(score, 1.0), {"part": score})


def stepped(prompt, **given):
    hooks = step_hooks(requests=Named("noisy_rollout:NoisyRollouts", RECIPE.NoisyRollouts(), SETTINGS))
    made = replace(with_requests(parts({}, samples=2, **given), hooks), scorer=ByImages({}))
    return made, one_step(made, [prompt])


def test_clean_and_noisy_responses_are_one_group_of_the_clean_prompt():
    """Rewards 0, 1, 3, 3: mean 7/4, squared deviations 49/16, 9/16, 25/16, 25/16, so the variance is 108/16/3 = 9/4."""
    prompt = make_prompt("p0", [IMAGE] * 2)
    made, result = stepped(prompt, anchor="none")
    clean, noisy = made.engine.requests
    assert clean.prompt_token_ids[1:] == noisy.prompt_token_ids[1:]
    assert clean.images == (IMAGE, IMAGE)
    assert noisy.images == asked(prompt, seed=0).images
    assert noisy.num_samples == 2
    (trained,) = made.trainer.batches[0].prompts
    assert trained.images == (IMAGE, IMAGE)
    assert [r.advantage for r in trained.responses] == pytest.approx([-7 / 6, -1 / 2, 5 / 6, 5 / 6], rel=1e-5)
    assert [(r.off_policy, r.bounded) for r in trained.responses] == [(False, False)] * 2 + [(True, True)] * 2
    assert result.metrics["extra/noisy/responses"] == 2


def test_anchors_are_asked_clean_and_pooled_with_both():
    """Anchors score 0 and 1 for each of two sources: the pool is 0, 1, 3, 3, 0, 1, 0, 1 with mean 9/8."""
    made, result = stepped(make_prompt("p0", [IMAGE] * 2), anchor="mono", anchor_samples=2)
    anchors = [request for request in made.engine.requests if request.view is not None]
    assert [request.images for request in anchors] == [(IMAGE,), (IMAGE,)]
    pool = [0, 1, 3, 3, 0, 1, 0, 1]
    std = (sum((r - 9 / 8) ** 2 for r in pool) / 7) ** 0.5
    (trained,) = made.trainer.batches[0].prompts
    assert [r.advantage for r in trained.responses] == pytest.approx([(r - 9 / 8) / std for r in pool[:4]], rel=1e-5)
    assert len(result.rollouts[0].anchors) == 2


def test_a_prompt_without_images_gets_further_responses_to_the_same():
    made, _ = stepped(make_prompt("p0", []), anchor="none")
    assert [(request.images, request.num_samples) for request in made.engine.requests] == [((), 2)] * 2


@pytest.mark.parametrize(
    "wrong", [{"samples": 0}, {"steps": -1}, {"steps": 1001}, {"strength": -0.1}, {"strength": 1.1}]
)
def test_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match="samples must be at least 1, steps within 0 to 1000, strength within 0 to 1"):
        replace(SETTINGS, **wrong)
