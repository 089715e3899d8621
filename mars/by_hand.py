"""The parts of a training step without a run, for taking a step by hand in a notebook or a script.

    with prepared_step(load_config("train", ["cluster=local", "rollout=hf", ...], [])) as made:
        result = train_step(made.parts, made.stream, made.state, 1)  # mars/step.py

examples/notebooks/quickstart.ipynb takes the stages of a step one after the other. Nothing is written to run.dir.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from mars.actor.trainer import warn_of_skipped
from mars.added_rows import training_stream
from mars.build import build_scorer, step_parts, workers
from mars.checkpoint.state import START
from mars.checks.hooks import checked_hooks
from mars.checks.model import model_check
from mars.checks.rewards import try_rewards
from mars.cluster.environment import prepare_process
from mars.config.schema import TrainConfig
from mars.errors import ConfigError
from mars.fit import last_step, restored
from mars.hooks.load import with_resolved_recipe
from mars.inputs import Inputs, load_inputs
from mars.quarantine import warn_of
from mars.step_parts import PromptRounds, SamplingState, StepParts


@dataclass(frozen=True)
class PreparedStep:
    """inputs: the checked rows, and how to write prompts for the model. parts: what `train_step` uses.

    stream: `stream.batch(0)` has the prompts of the first round. state: what the first step starts from.
    """

    inputs: Inputs
    parts: StepParts
    stream: PromptRounds
    state: SamplingState


@contextmanager
def prepared_step(config: TrainConfig) -> Iterator[PreparedStep]:
    """Check rows, settings and model as a run does, and start rewards, engine and trainer. All end with the block.

    The engine has the trainer's weights, so step 1 gives the same as step 1 of a run with these settings.
    Raises the errors of a run, and ConfigError unless engine and trainer are in this process (`cluster=local`).
    """
    if config.cluster.kind != "local":
        raise ConfigError(
            f"cluster.kind: by hand, engine and trainer are in this process; got {config.cluster.kind}; "
            "use cluster=local, for example with rollout=hf"
        )
    prepare_process(config.cluster.kind, config.cluster.threads_per_worker, config.cluster.device)
    config = with_resolved_recipe(config)
    with model_check(config, in_process=True):
        inputs = load_inputs(config, with_training_set=True)
    assert inputs.train is not None  # because of with_training_set=True
    stream, prompts = training_stream(config, inputs)
    hooks = checked_hooks(config).for_steps(last_step(config.run, stream))
    state = restored(hooks, stream, START.sampling, config.rollout.schedule)
    with closing(build_scorer(config)) as scorer:
        try_rewards(scorer, inputs, inputs.train.prompts)
        with workers(config, inputs, with_trainer=True, log_dir=Path(config.run.dir)) as (engine, trainer):
            assert trainer is not None  # because of with_trainer=True
            reports = (warn_of, warn_of_skipped)
            parts = step_parts(config, inputs, engine, trainer, scorer, *reports, hooks, scorer.counts, prompts)
            engine.load_weights(trainer.publish_weights())
            yield PreparedStep(inputs, parts, stream, state)
