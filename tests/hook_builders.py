"""The hooks of a recipe for tests, and what hooks are called with: each builder fills in what a test does not set."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from mars.config.ramp_section import Ramp
from mars.config.recipe_section import RecipeConfig
from mars.config.schema import TrainConfig
from mars.hooks.contract import StepFacts
from mars.hooks.load import hooks_of_run
from mars.hooks.of_workers import token_rule
from mars.hooks.step_hooks import StepHooks
from tests.builders import train_config


def hooks_of_config(config: TrainConfig, num_steps: int = 1) -> StepHooks:
    """What a step of a run with this configuration calls. `config.recipe` must come from `resolved`."""
    rule = token_rule(config.recipe, with_reference=config.algorithm.loads_reference, ramps=config.ramps)
    return hooks_of_run(config, rule).for_steps(num_steps)


def loaded_hooks(
    recipe: RecipeConfig, *, num_steps: int = 1, ramps: Sequence[Ramp] = (), part_weights: Collection[str] = (),
    with_reference: bool = False,
) -> StepHooks:  # fmt: skip
    """As `hooks_of_config`, of a recipe alone. part_weights: names of parts. with_reference: of a loaded reference."""
    parts = dict.fromkeys(part_weights, 1.0)
    values = {"algorithm.part_weights": parts, "algorithm.kl_coefficient": 0.1 if with_reference else 0.0}
    config = train_config(values).model_copy(update={"recipe": recipe, "ramps": list(ramps)})
    return hooks_of_config(config, num_steps)


def step_hooks(*, num_steps: int = 1, seed: int = 0, **fields: Any) -> StepHooks:
    """fields: as in `StepHooks`."""
    return StepHooks(num_steps, seed, **fields)


NO_HOOKS = step_hooks()


def step_facts(settings: Any, step: int = 1, progress: float = 0.0, seed: int = 0) -> StepFacts:
    return StepFacts(step, progress, settings, seed)
