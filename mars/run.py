"""The jobs: a training run from data to the saved policy, and an evaluation of a model."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mars.build import build_scorer, build_tracker, evaluation_parts, step_parts, workers
from mars.checks.answers import answered_perfectly
from mars.checks.dry_run import check_kl_reference
from mars.cluster.environment import gc_paused
from mars.config.schema import TrainConfig
from mars.errors import SetupError
from mars.evaluation.summary import eval_metrics, evaluate
from mars.fit import FitSettings, fit, last_step
from mars.inputs import Inputs, load_inputs, prompt_stream, rewards_of
from mars.rewards.contract import RewardScorer, self_test
from mars.rollout.engine import RolloutEngine
from mars.types import Prompt

logger = logging.getLogger(__name__)

POLICY_FOLDER = "policy"
EVALUATION_FOLDER = "evaluation"
CONFIG_FILE = "config.yaml"
_SELF_TEST_ROWS = 4


def run(config: TrainConfig) -> None:
    """Train, and save the policy to <run.dir>/policy. Rows and settings are checked before any worker starts."""
    check_packages(config)
    check_kl_reference(config)
    with gc_paused():
        inputs = load_inputs(config, with_training_set=True)
    assert inputs.train is not None  # asked for above
    stream = prompt_stream(config, inputs.train.prompts)
    settings = FitSettings(
        num_steps=config.run.num_steps,
        num_epochs=config.run.num_epochs,
        evaluate_every=config.evaluation.every,
        evaluate_before=config.evaluation.before_training,
        logprob_diff_alarm=config.rollout.logprob_diff_alarm,
    )
    run_dir = Path(config.run.dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    tracker = build_tracker(config, inputs, last_step(settings, stream))
    try:
        (run_dir / CONFIG_FILE).write_text(yaml.safe_dump(config.model_dump(), sort_keys=False))
        scorer = build_scorer(config)
        try:
            _try_rewards(scorer, inputs, inputs.train.prompts)
            with workers(config, inputs, with_trainer=True) as (engine, trainer):
                assert trainer is not None  # asked for above
                fit(
                    step_parts(config, inputs, engine, trainer, scorer),
                    stream,
                    tracker,
                    settings,
                    _evaluation(config, inputs, engine, scorer),
                    num_dropped=sum(inputs.train.dropped.values()),
                )
                trainer.save(str((run_dir / POLICY_FOLDER).absolute()))
        finally:
            scorer.close()
    finally:
        tracker.close()
    logger.info("the policy is in %s", run_dir / POLICY_FOLDER)


def run_evaluation(config: TrainConfig, name: str, step: int, out: Path | None) -> dict[str, Any]:
    """Evaluate `model.path` on `data.eval_files`; the result is returned, and written to `out` as JSON."""
    check_packages(config)
    with gc_paused():
        inputs = load_inputs(config, with_training_set=False)
    scorer = build_scorer(config)
    try:
        with workers(config, inputs, with_trainer=False) as (engine, _):
            result = _evaluate(config, inputs, engine, scorer, name, step)
    finally:
        scorer.close()
    if out is not None:
        write_result(result, out)
    return result


def _try_rewards(scorer: RewardScorer, inputs: Inputs, prompts: Sequence[Prompt]) -> None:
    """Every reward of the run on the first rows it is for. Raises ConfigError, see `self_test`."""
    rewards = rewards_of(inputs.config)
    for name in rewards.names:
        some = [prompt for prompt in prompts if rewards.of(prompt.data_source) == name][:_SELF_TEST_ROWS]
        self_test(scorer, [answered_perfectly(prompt, None, name, inputs.frames) for prompt in some])


def check_packages(config: TrainConfig) -> None:
    """Raises SetupError for an optional package that the settings need and this machine lacks.

    Nodes of a joined cluster (cluster.address) have packages of their own: a missing one shows when its worker starts.
    """
    needed = {
        "vllm": (config.rollout.engine == "vllm", "rollout.engine=vllm", "pip install 'mars[vllm]' (CPU: 'mars[cpu]')"),
        "flash_attn": (
            config.model.attention == "flash_attention_2",
            "model.attention=flash_attention_2",
            "pip install 'mars[flash-attn]'",
        ),
    }
    for package, (is_needed, setting, remedy) in needed.items():
        if is_needed and config.cluster.address is None and importlib.util.find_spec(package) is None:
            other = "rollout=hf" if package == "vllm" else "model.attention=sdpa"
            raise SetupError(f"{setting}: the package {package} is not installed; {remedy}, or use {other}")


def write_result(result: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")


def _evaluate(
    config: TrainConfig, inputs: Inputs, engine: RolloutEngine, scorer: RewardScorer, name: str, step: int
) -> dict[str, Any]:
    assert inputs.evaluation is not None  # the callers ask only where there is a held-out set
    parts = evaluation_parts(config, inputs, engine, scorer)
    return evaluate(parts, inputs.evaluation.prompts, name=name, step=step, model=config.model.path)


def _evaluation(config: TrainConfig, inputs: Inputs, engine: RolloutEngine, scorer: RewardScorer):
    """step -> metrics of an evaluation whose result is kept in the run's folder; None without a held-out set."""
    if inputs.evaluation is None:
        return None

    def at_step(step: int) -> dict[str, float]:
        name = "before" if step == 0 else f"step {step}"
        result = _evaluate(config, inputs, engine, scorer, name, step)
        write_result(result, Path(config.run.dir) / EVALUATION_FOLDER / f"step_{step:06d}.json")
        return eval_metrics(result)

    return at_step
