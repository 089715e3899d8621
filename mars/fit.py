"""The loop around the step: evaluate, step, track, stop."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, cast

from mars import faults, interrupts
from mars.actor.trainer import PolicyTrainer, SkippedReport, UpdateStats
from mars.checkpoint.saver import Checkpoints
from mars.checkpoint.state import START, RunState
from mars.config.run_sections import TrainRunConfig
from mars.config.schema import TrainConfig
from mars.errors import NumericalError
from mars.hooks.step_hooks import StepHooks
from mars.staleness import renumbered
from mars.step import TrainStep, train_step
from mars.step_parts import PromptRounds, SamplingState, StepParts
from mars.tracking.tracker import Tracker
from mars.train_types import TrainBatch

logger = logging.getLogger(__name__)

_SILENT_STEPS = 5  # the log warns after this number of steps in a row without signal


def fit(
    parts: StepParts,
    stream: PromptRounds,
    tracker: Tracker,
    config: TrainConfig,
    evaluate: Callable[[int], dict[str, float]] | None,
    checkpoints: Checkpoints,
    start: RunState,
    num_dropped: int,
    train_step: TrainStep = train_step,
) -> RunState:
    """Train from the state `start` to the last step, and return the state after it. Steps count from 1.

    evaluate: step -> metrics of an evaluation; None without a held-out set.
    num_dropped: number of rows left out of the training set, for the metric `data/dropped`.

    A signal raises KeyboardInterrupt. A step that is still sampling is then abandoned; a step that is updating the
    policy is finished first. In both cases the state after the last finished step is saved before KeyboardInterrupt
    is raised again.
    """
    # Engine and trainer start with the same weights, so both have the same version and dtype.
    weights = parts.trainer.publish_weights()
    parts.engine.load_weights(weights)
    if start == START and evaluate is not None and config.evaluation.before_training:
        tracker.log(evaluate(0), 0)
    done = partial(is_finished, config.run, stream)
    silent = _SilentSteps()
    finish = partial(_finish_step, tracker=tracker, evaluate=evaluate, every=config.evaluation.every, is_last=done)
    sampling = restored(parts.hooks, stream, start.sampling, config.rollout.schedule)
    state = replace(start, sampling=renumbered(sampling, weights.version))
    try:
        state = finish(state, _faults(parts, checkpoints))
        while not done(state.step, state.sampling):
            step = state.step + 1
            result = train_step(_with_watched_updates(parts, step), stream, state.sampling, step)
            metrics = dict(result.metrics)
            metrics["data/epoch"] = drawn(stream, result.state) / len(stream)
            metrics["data/dropped"] = num_dropped
            metrics["data/quarantined"] = len(result.state.quarantine.bad)
            _warn_of_mismatch(metrics, step, config.rollout.logprob_diff_alarm)
            silent.note(metrics, step)
            tracker.log_rollouts(result.rollouts, step)
            state = RunState(step, result.state, metrics, logged=False)
            interrupts.allow()  # deferred since the update began
            state = finish(state, _faults(parts, checkpoints))
            faults.point("step.logged")
            checkpoints.save_if_due(state)
        checkpoints.save_now(state)
    except KeyboardInterrupt:
        checkpoints.save_now(state)
        raise
    return state


def restored(hooks: StepHooks, stream: PromptRounds, sampling: SamplingState, schedule: str) -> SamplingState:
    """The state from which a run with schedule `schedule` goes on. Also restores hooks and sampler to it.

    The checkpoint of an asynchronous run may have a step that was sampled ahead. A synchronous run samples this step
    again, so the sampled step is left out, with what hooks have learnt from it. Raises ConfigError if the state has
    hooks that the run does not have.
    """
    if schedule == "synchronous":
        sampling = replace(sampling, ahead=None)
    newest = sampling.ahead.state if sampling.ahead else sampling
    stream.restore(hooks.restore(newest.hooks))
    return sampling


class _WatchedUpdates:
    """A `PolicyTrainer` that defers interruptions from the beginning of `update` until `interrupts.allow`.

    report: called with the optimizer updates that `update` skipped, also if they end the run.
    """

    def __init__(self, trainer: PolicyTrainer, report: SkippedReport, step: int) -> None:
        self._trainer, self._report, self._step = trainer, report, step

    def update(self, batch: TrainBatch) -> UpdateStats:
        interrupts.defer()
        try:
            stats = self._trainer.update(batch)
        except NumericalError as error:
            self._report(batch, error.skipped, self._step)
            raise
        self._report(batch, stats.skipped, self._step)
        return stats

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)


def _with_watched_updates(parts: StepParts, step: int) -> StepParts:
    watched = _WatchedUpdates(parts.trainer, parts.report_skipped, step)
    return replace(parts, trainer=cast(PolicyTrainer, watched))


def _finish_step(
    state: RunState,
    faults: Mapping[str, int],
    tracker: Tracker,
    evaluate: Callable[[int], dict[str, float]] | None,
    every: int,
    is_last: Callable[[int, SamplingState], bool],
) -> RunState:
    """Evaluate if the step is a multiple of `every` or the last one; never if `every` is 0. Then log the
    step's metrics."""
    if state.logged:
        return state
    metrics = {**state.metrics, **faults}
    if evaluate is not None and every and (state.step % every == 0 or is_last(state.step, state.sampling)):
        metrics |= evaluate(state.step)
    tracker.log(metrics, state.step)
    return replace(state, metrics=metrics, logged=True)


def _faults(parts: StepParts, checkpoints: Checkpoints) -> dict[str, int]:
    """Counts since the process started: failed checkpoint writes and restarts of engines; also, unless it is 0, the
    number of lost engines that were missing in a call of `generate`, summed over calls."""
    counts = parts.engine.counts()
    faults = {"fault/checkpoint": checkpoints.failures, "fault/engine_restarts": counts.restarts}
    return faults | ({"fault/engine_absences": counts.absences} if counts.absences else {})


def last_step(run: TrainRunConfig, stream: PromptRounds) -> int:
    """num_steps; or, with num_epochs, the number of steps in which every prompt is drawn num_epochs times.

    With num_epochs, one round of `prompts_per_step` prompts per step is assumed. A run may end earlier or later
    (`is_finished`).
    """
    if run.num_steps is not None:
        return run.num_steps
    if run.num_epochs is None:
        raise ValueError("num_steps and num_epochs are both None")
    return math.ceil(run.num_epochs * len(stream) / stream.prompts_per_step)


def drawn(stream: PromptRounds, state: SamplingState) -> int:
    """Number of prompts in the rounds so far, kept or not. A round without prompts counts as `prompts_per_step`."""
    return state.round * stream.prompts_per_step + state.surplus


def is_finished(run: TrainRunConfig, stream: PromptRounds, step: int, state: SamplingState) -> bool:
    """Whether no step is left to train after `step`, whose state is `state`.

    With num_epochs a run ends when it has drawn N = num_epochs * len(stream) prompts. This is earlier than `last_step`
    if steps draw several rounds, and later if the sampler's rounds have fewer than `prompts_per_step` prompts. A run
    that never draws N prompts ends too. With `state.surplus` 0, as in rounds of `prompts_per_step` prompts each, it
    ends after step `last_step`; else after N steps, which are enough even with one prompt per step.
    """
    if run.num_steps is not None or run.num_epochs is None:
        return step >= last_step(run, stream)
    prompts = run.num_epochs * len(stream)
    return drawn(stream, state) >= prompts or step >= (prompts if state.surplus else last_step(run, stream))


class _SilentSteps:
    """Warns once if, in several steps in a row, all advantages were 0 and the gradient was 0."""

    def __init__(self) -> None:
        self._in_a_row = 0
        self._warned = False

    def note(self, metrics: Mapping[str, float], step: int) -> None:
        silent = metrics.get("mars/frac_zero_signal") == 1 and not metrics.get("actor/grad_norm")
        self._in_a_row = self._in_a_row + 1 if silent else 0
        if self._in_a_row < _SILENT_STEPS or self._warned:
            return
        self._warned = True
        logger.warning(
            "step %d: nothing was learnt in the last %d steps: the responses to each prompt all got the same score, so "
            "no response had an advantage; if all are wrong, give the model a cold start (docs/cold_start.md), or a "
            "reward that gives points for parts of an answer; if all are right, use harder rows",
            step,
            _SILENT_STEPS,
        )


def _warn_of_mismatch(metrics: dict[str, float], step: int, alarm: float) -> None:
    difference = metrics.get("rollout/logprob_diff_max")
    if metrics.get("rollout/staleness_max"):  # log-probs of older weights differ anyway
        return
    if difference is not None and not difference <= alarm:
        logger.warning(
            "step %d: log-probs of engine and trainer differ by up to %.3g nats (rollout.logprob_diff_alarm=%.3g): "
            "stale weights, another precision, or a model that the engine computes differently",
            step,
            difference,
            alarm,
        )
