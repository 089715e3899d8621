"""`NEEDS` of every recipe: its own experiments have these values, and any other one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from mars.config.schema import TrainConfig
from mars.errors import ConfigError
from mars.hooks.load import resolved, specs, with_resolved_recipe
from mars.hooks.needs import allowed
from mars.plugin import load
from tests.shipped.recipes.recipe_files import FOLDERS, compose, experiments

# Another valid value of each setting that some recipe needs.
OTHER = {
    "algorithm.estimator": "leave_one_out",
    "algorithm.normalize_std": True,
    "algorithm.part_weights": {"format": 1.0},
    "data.shuffle": False,
    "data.weights": [1.0],
    "rollout.top_k": 50,
    "rollout.top_p": 0.9,
}
SELECTIONS = {"all", "nonzero_advantage"}
HOOKED = [(folder, name) for folder in FOLDERS for tiny in (True, False) for name in experiments(folder, tiny=tiny)]


def needs_of(config: TrainConfig) -> dict:
    """What the files of an experiment's hooks need."""
    named = [(key, spec) for key, listed in specs(resolved(config.recipe)).items() for spec in listed]
    modules = [load(key, spec, "a hook", classes=True).module for key, spec in named]
    return {key: value for module in modules for key, value in getattr(module, "NEEDS", {}).items()}


def with_value(config: TrainConfig, key: str, value: object) -> TrainConfig:
    """Without the checks of other rules, which may refuse the value too."""
    section, _, name = key.partition(".")
    changed = getattr(config, section).model_copy(update={name: value})
    return config.model_copy(update={section: changed})


def other_value(key: str, value: object) -> object:
    if key == "algorithm.selection":
        return (SELECTIONS - {value}).pop()
    return OTHER[key]


@pytest.mark.parametrize(("folder", "name"), HOOKED, ids=lambda given: given.name if isinstance(given, Path) else given)
def test_a_recipe_runs_with_what_it_needs_alone(folder, name):
    config = compose(folder, name)
    assert with_resolved_recipe(config).recipe == resolved(config.recipe)
    for key, value in needs_of(config).items():
        other = other_value(key, value)
        assert other not in allowed(value)
        with pytest.raises(ConfigError, match=rf"^{key}: not a value that the hooks of .*{folder.name}/functions\.py"):
            with_resolved_recipe(with_value(config, key, other))


def test_recipes_that_depend_on_other_settings_say_so():
    needs = {folder.name: sorted(needs_of(compose(folder, name))) for folder, name in HOOKED if name.endswith("_tiny")}
    order, centred = ["data.shuffle", "data.weights"], ["estimator", "normalize_std", "part_weights"]
    assert {name: keys for name, keys in needs.items() if keys} == {
        "ema_grpo": [f"algorithm.{name}" for name in centred],
        "glm_rlcs": ["algorithm.selection", *order],
        "mmr1_vas": order,
        "pearl": ["algorithm.part_weights"],
        "syn_grpo": ["algorithm.selection", "data.weights"],
        "vade": order,
        "visurf": ["algorithm.part_weights"],
        "vogue": ["rollout.top_k", "rollout.top_p"],
    }
