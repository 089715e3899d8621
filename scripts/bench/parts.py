"""The parts of a step for benchmarks."""

from __future__ import annotations

from mars.actor.trainer import PolicyTrainer, warn_of_skipped
from mars.build import step_parts
from mars.config.schema import TrainConfig
from mars.hooks.load import hooks_of_run
from mars.inputs import Inputs
from mars.quarantine import warn_of
from mars.rewards.contract import RewardScorer
from mars.rollout.engine import RolloutEngine
from mars.step_parts import StepParts


def parts_without_hooks(
    config: TrainConfig, inputs: Inputs, engine: RolloutEngine, trainer: PolicyTrainer, scorer: RewardScorer
) -> StepParts:
    """The parts of a step, as in a run without a recipe, but without metrics from `RewardPool.counts`."""
    prompts = {} if inputs.train is None else {prompt.prompt_id: prompt for prompt in inputs.train.prompts}
    hooks = hooks_of_run(config, rule=None).for_steps(1)
    return step_parts(config, inputs, engine, trainer, scorer, warn_of, warn_of_skipped, hooks, dict, prompts)
