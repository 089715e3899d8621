"""One training step of mars, top to bottom. Start reading here.

    prompts ── plan ──> requests ── engine ──> completions ── rewards ──> rollouts of each prompt   ┐ sample(),
                                                                              │                     │ mars/sampling.py
        kept prompts, each response with its advantage and weight <── advantages, selection, hooks  ┘
             │
             └── collate ──> batch ──> trainer ── old log-probs, clipped updates ──> new weights ──> engine

A prompt about several images ("sources") of one scene is sampled G times with all images (the multi view), and a few
times with each image alone (the mono views; these responses are the anchors). Its advantages are normalised over the
rewards of all these responses together, so a multi-source response is rewarded for beating what single sources achieve.
By default, only multi responses are trained on. docs/step.md explains every line. Recipes add hooks to `sample()`, and
token rules to the trainer's loss (docs/extend.md).

Engine, trainer and rewards are behind the interfaces of mars/rollout/engine.py, mars/actor/trainer.py and
mars/rewards/contract.py; mars/build.py chooses them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from mars import faults
from mars.answers.record import PromptLength
from mars.rollout.metrics import anchor_share, processed_tokens
from mars.sampling import sample
from mars.step_parts import PromptRounds, SamplingState, StepParts
from mars.tracking.timer import StepTimer
from mars.types import PromptRollouts


@dataclass(frozen=True)
class StepResult:
    """A step's metrics by documented name (docs/metrics.md), all rollouts sampled for it, and the state after it."""

    metrics: Mapping[str, float]
    rollouts: Sequence[PromptRollouts]
    state: SamplingState


class TrainStep(Protocol):
    """Trains one step, as `train_step` does. step: its number, from 1."""

    def __call__(self, parts: StepParts, stream: PromptRounds, state: SamplingState, step: int) -> StepResult: ...


def _endless(step: int, state: SamplingState) -> bool:
    return False


def train_step(
    parts: StepParts,
    stream: PromptRounds,
    state: SamplingState,
    step: int,
    is_last: Callable[[int, SamplingState], bool] = _endless,
) -> StepResult:
    """Sample and score, update the policy on the kept prompts, and give the engine the new weights.

    `step` seeds the sampling. If no prompt is kept, there is no update and the weights stay.
    is_last: (number of a step, state after it) -> whether it is the last step; then no images are read ahead.
    """
    timer = StepTimer()
    sampled = sample(parts, stream, state, step, timer)
    faults.point("step.sampled")
    metrics, state = dict(sampled.metrics), sampled.state

    batch = replace(parts.collate(sampled.kept), step=step, settings=parts.hooks.scheduled(step))
    if batch.prompts:
        parts.turns.trainer(timer)
        if not is_last(step, state):
            # The engine reads the images of the next round while the trainer updates.
            parts.engine.prefetch(parts.plan_at(step + 1).requests(stream.batch(state.round), step + 1))
        with timer.stage("update_actor"):
            stats = parts.trainer.update(batch)
        faults.point("step.updated")
        with timer.stage("sync_weights"):
            weights = parts.trainer.publish_weights()
            parts.engine.load_weights(weights)
        parts.turns.engine(timer)
        quarantine = parts.bad_samples.lost(state.quarantine, stats.unreadable, step)
        state = replace(state, quarantine=quarantine, version=weights.version)
        timer.move(stats.old_logprob_seconds, "update_actor", "old_log_prob")
        metrics |= stats.metrics

    metrics |= timer.metrics()
    metrics |= perf_metrics(metrics, sampled.rollouts, sampled.rollouts, parts.prompt_length)
    return StepResult(metrics, sampled.rollouts, state)


def perf_metrics(
    timings: Mapping[str, float],
    generated: Sequence[PromptRollouts],
    rollouts: Sequence[PromptRollouts],
    prompt_length: PromptLength,
) -> dict[str, float]:
    """generated: all rollouts that were generated during this step, in `timings["timing_s/gen"]` seconds.

    rollouts: those sampled for this step, during it or, with an asynchronous schedule, during the step before.
    """
    return {
        "perf/anchor_gen_seconds_attributed": timings.get("timing_s/gen", 0.0) * anchor_share(generated, prompt_length),
        "perf/throughput": processed_tokens(rollouts, prompt_length) / timings["timing_s/step"],
    }
