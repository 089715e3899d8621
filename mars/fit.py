"""The loop around the step: evaluate, step, track, stop."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from mars.config.schema import TrainConfig, TrainRunConfig
from mars.data.order.stream import PromptStream
from mars.sampling import SamplingState, StepParts
from mars.step import train_step
from mars.tracking.tracker import Tracker

logger = logging.getLogger(__name__)


def fit(
    parts: StepParts,
    stream: PromptStream,
    tracker: Tracker,
    config: TrainConfig,
    evaluate: Callable[[int], dict[str, float]] | None,
    num_dropped: int,
) -> None:
    """Train from the first step to the last. Steps count from 1.

    evaluate: step -> metrics of an evaluation, or None where there is no held-out set.
    num_dropped: rows left out of the training set, for data/dropped.
    """
    # The engine starts with the trainer's weights, so that both have the same version and dtype.
    parts.engine.load_weights(parts.trainer.publish_weights())
    if evaluate is not None and config.evaluation.before_training:
        tracker.log(evaluate(0), 0)
    state = SamplingState(round=0, carried=())
    for step in range(1, last_step(config.run, stream) + 1):
        if _is_over(config.run, stream, state):
            break
        result = train_step(parts, stream, state, step)
        state = result.state
        metrics = dict(result.metrics)
        metrics["data/epoch"] = state.round * stream.prompts_per_step / len(stream)
        metrics["data/dropped"] = num_dropped
        _warn_of_mismatch(metrics, step, config.rollout.logprob_diff_alarm)
        every = config.evaluation.every
        if evaluate is not None and every and step % every == 0:
            metrics |= evaluate(step)
        tracker.log(metrics, step)
        tracker.log_rollouts(result.rollouts, step)


def last_step(run: TrainRunConfig, stream: PromptStream) -> int:
    """num_steps, or with num_epochs the number of steps in which every prompt is drawn num_epochs times.

    The latter assumes one round per step. Dynamic sampling may draw more and end sooner: see `_is_over`.
    """
    if run.num_steps is not None:
        return run.num_steps
    if run.num_epochs is None:
        raise ValueError("num_steps and num_epochs are both None")
    return math.ceil(run.num_epochs * len(stream) / stream.prompts_per_step)


def _is_over(run: TrainRunConfig, stream: PromptStream, state: SamplingState) -> bool:
    """Whether num_epochs have been drawn already, which may be before the last step: a step may draw several rounds."""
    if run.num_steps is not None or run.num_epochs is None:
        return False
    return state.round * stream.prompts_per_step >= run.num_epochs * len(stream)


def _warn_of_mismatch(metrics: dict[str, float], step: int, alarm: float) -> None:
    difference = metrics.get("rollout/logprob_diff_max")
    if difference is not None and not difference <= alarm:
        logger.warning(
            "step %d: log-probs of engine and trainer differ by up to %.3g nats (rollout.logprob_diff_alarm=%.3g): "
            "stale weights, another precision, or a model that the engine computes differently",
            step,
            difference,
            alarm,
        )
