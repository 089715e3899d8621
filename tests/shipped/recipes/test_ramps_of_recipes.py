"""What may change during a run, for every recipe: the settings that its hooks name, and nothing else."""

from __future__ import annotations

import pytest

from mars.config.ramp_section import SETTINGS, Ramp
from mars.errors import ConfigError
from mars.hooks.load import resolved
from mars.hooks.of_workers import image_transforms
from tests.hook_builders import hooks_of_config
from tests.shipped.recipes.recipe_files import FOLDERS, compose, experiments

MAY_CHANGE = {
    "ema_grpo": {"decay", "guard", "min_std"},
    "grpo_care": {"margin", "max_confidence", "min_accuracy", "weight"},
    "noisy_rollout": {"strength"},
    "observe_r1": {"bonus", "min_tokens", "sigma"},
    "papo": {"cap", "entropy", "gamma", "masked_entropy"},
    "pearl": {"threshold"},
    "stable_reinforce": {"deviations"},
    "syn_grpo": {"decay", "weight"},
    "vision_sr1": {"weight"},
    "visionary_r1": {"weight"},
    "vl_cogito": {"limit_tokens", "target_tokens"},
    "vogue": {"entropy", "max_uncertainty", "noisy_share", "uncertainty"},
    "vppo": {"cap", "entropy", "kept_share", "lowest_weight"},
}


def all_made(config, ramps):
    config = config.model_copy(update={"recipe": resolved(config.recipe), "ramps": ramps})
    hooks_of_config(config)  # with the token rule
    image_transforms(config.recipe, config.ramps)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_number_that_a_hook_names_may_change_and_no_other(folder):
    """Not the seed of a draw, say, nor what a transform or a sampler is made with."""
    accepted: set[str] = set()
    tried: list[dict] = []
    for name in experiments(folder, tiny=True) + experiments(folder, tiny=False):
        config = compose(folder, name)
        all_made(config, config.ramps)
        hooks = config.recipe.model_dump(exclude={"settings"})
        if hooks in tried:
            continue
        tried.append(hooks)
        numbers = {
            (file, name): value
            for file, settings in config.recipe.settings.items()
            for name, value in settings.items()
            if type(value) in (int, float)
        }
        for (file, setting), value in numbers.items():
            key = f"{SETTINGS}{file}.{setting}"
            one = Ramp(key=key, first=value, last=value, start=1, steps=1, shape="linear", slope=None)
            try:
                all_made(config, [one])
                accepted.add(setting)
            except ConfigError as error:
                assert f"ramps: {key}: no hook of the run reads it" in str(error)  # noqa: PT017
    assert accepted == MAY_CHANGE.get(folder.name, set())
