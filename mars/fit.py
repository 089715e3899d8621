"""The loop around the step: evaluate, step, track, stop."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from mars.data.order.stream import PromptStream
from mars.sampling import SamplingState, StepParts
from mars.step import train_step
from mars.tracking.tracker import Tracker

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitSettings:
    """num_steps: None counts num_epochs instead. evaluate_every: 0 for never during training.

    logprob_diff_alarm: engine-versus-trainer difference in nats above which a warning is logged.
    """

    num_steps: int | None
    num_epochs: int | None
    evaluate_every: int
    evaluate_before: bool
    logprob_diff_alarm: float


def fit(
    parts: StepParts,
    stream: PromptStream,
    tracker: Tracker,
    settings: FitSettings,
    evaluate: Callable[[int], dict[str, float]] | None,
    num_dropped: int,
) -> None:
    """Train from the first step to the last. Steps count from 1.

    evaluate: step -> metrics of an evaluation, or None where there is no held-out set.
    num_dropped: rows left out of the training set, for data/dropped.
    """
    # The engine's weights come from the trainer from the start, so that both are the same version and type.
    parts.engine.load_weights(parts.trainer.publish_weights())
    if evaluate is not None and settings.evaluate_before:
        tracker.log(evaluate(0), 0)
    state = SamplingState(round=0, carried=())
    for step in range(1, last_step(settings, stream) + 1):
        if _is_over(settings, stream, state):
            break
        result = train_step(parts, stream, state, step)
        state = result.state
        metrics = dict(result.metrics)
        metrics["data/epoch"] = state.round * stream.prompts_per_step / len(stream)
        metrics["data/dropped"] = num_dropped
        _warn_of_mismatch(metrics, step, settings.logprob_diff_alarm)
        if evaluate is not None and settings.evaluate_every and step % settings.evaluate_every == 0:
            metrics |= evaluate(step)
        tracker.log(metrics, step)
        tracker.log_rollouts(result.rollouts, step)


def last_step(settings: FitSettings, stream: PromptStream) -> int:
    """num_steps, or the steps that show every prompt num_epochs times; with dynamic sampling fewer may do."""
    if settings.num_steps is not None:
        return settings.num_steps
    if settings.num_epochs is None:
        raise ValueError("num_steps and num_epochs are both None")
    return math.ceil(settings.num_epochs * len(stream) / stream.prompts_per_step)


def _is_over(settings: FitSettings, stream: PromptStream, state: SamplingState) -> bool:
    """Whether num_epochs are through before the last step: a step of several rounds shows more prompts."""
    if settings.num_steps is not None or settings.num_epochs is None:
        return False
    return state.round * stream.prompts_per_step >= settings.num_epochs * len(stream)


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
