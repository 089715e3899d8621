"""The parts of a step as a run makes them, without a run's folder and hooks."""

from __future__ import annotations

from mars.actor.trainer import PolicyTrainer, warn_of_skipped
from mars.build import step_parts
from mars.config.schema import TrainConfig
from mars.inputs import Inputs
from mars.quarantine import warn_of
from mars.rewards.contract import RewardScorer
from mars.rollout.engine import RolloutEngine
from mars.step_parts import StepParts
from tests.hook_builders import NO_HOOKS


def parts_of_run(
    config: TrainConfig, inputs: Inputs, engine: RolloutEngine, trainer: PolicyTrainer, scorer: RewardScorer
) -> StepParts:
    """Of `mars.build.step_parts`; bad prompts and skipped updates are logged, and nothing counts for rewards."""
    prompts = [] if inputs.train is None else inputs.train.prompts
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    return step_parts(config, inputs, engine, trainer, scorer, warn_of, warn_of_skipped, NO_HOOKS, dict, by_id)
