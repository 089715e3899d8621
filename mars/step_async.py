"""One training step that samples the next step's responses while it updates the policy. mars/step.py has no overlap.

               step 1                      │      │ step 2                    │      │ step 3
    engine     sample 1 │ sample 2 ────────┤      │ sample 3 ───────┐         │      │ sample 4 ...
    trainer             │ update on 1 ─┐   │ send │ update on 2 ────┴─────────┤ send │ update on 3 ...
    engine's weights    W0                 └──────┤ W1                        └──────┤ W2

Update and sampling begin together. The engine gets the new weights when both have ended. So weights change only between
two samplings, and the result does not depend on whether the update or the sampling takes longer. The responses of step
t + 1 are sampled with the weights before update t. They are one version older than the weights that train on them,
which importance weights correct for (`algorithm.importance_cap`, docs/method.md). The last step samples nothing ahead.

During the overlap the main thread uses the trainer, and a second thread uses the engine and the reward processes.
Numbers for step t + 1 that only the trainer can compute, such as those that a shaping needs, are computed in the second
thread, after update t has ended. docs/step.md explains the code; `rollout.max_staleness` chooses between the two kinds
of step.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from mars import background, faults, interrupts
from mars.actor.trainer import PolicyTrainer, ResponseScores
from mars.algorithms.scoring import ScoringSpec, Span
from mars.background import Background
from mars.rollout.engine import FinishedSample, RolloutEngine, UnreadableRequest, ended
from mars.sampling import sample
from mars.staleness import staleness_metrics, within_bound, without_too_old
from mars.step import StepResult, perf_metrics
from mars.step_parts import PromptRounds, Sampled, SamplingState, StepParts
from mars.tracking.timer import SAMPLING_STAGES, StepTimer
from mars.train_types import TrainBatch
from mars.types import PromptRollouts, RolloutRequest

logger = logging.getLogger(__name__)

_LOOK_S = 0.5


@dataclass(frozen=True)
class Overlap:
    """is_last: (number of a step, state after it) -> whether none follows."""

    max_staleness: int
    is_last: Callable[[int, SamplingState], bool]


def train_step_async(
    parts: StepParts, stream: PromptRounds, state: SamplingState, step: int, overlap: Overlap
) -> StepResult:
    """Update the policy on the responses sampled ahead, and sample for the next step meanwhile. Then give the engine
    the new weights.

    If no prompt is left to train on, there is no update and the weights stay.
    Raises WorkerError if responses that are not carried are older than `max_staleness`: an engine has old weights.
    """
    timer, busy = StepTimer(), _BusyTrainer(parts.trainer)
    sampler = _Sampler(parts, stream, overlap, busy)
    sampled = state.ahead
    if sampled is None:
        with timer.stage("wait_rollouts"):
            sampled = sampler.sample(parts, state, step, trained_by=state.version)
    faults.point("step.sampled")
    state = replace(sampled.state, version=state.version)

    # A resumed run may have a smaller bound than the run that sampled them ahead.
    kept = without_too_old(sampled.kept, state.version, overlap.max_staleness)
    metrics = _of_kept(sampled, len(kept))
    batch, stats = replace(parts.collate(kept), step=step, settings=parts.hooks.scheduled(step)), None
    # Version of the weights that train on the responses sampled ahead: the next version, if this step has an update.
    trained_by = state.version + bool(batch.prompts)
    with Background(partial(sampler.sample_ahead, state, step + 1, trained_by), name="sampling") as sampling:
        if batch.prompts:
            with timer.stage("update_actor"):
                stats = parts.trainer.update(batch)
            faults.point("step.updated")
        busy.lend()
        updated = time.perf_counter()
        with timer.stage("wait_rollouts"):
            ahead = sampling.result(give_up=interrupts.is_urgent)
    if sampling.given_up:
        busy.take_back()
        logger.warning("step %d is not sampled ahead, because the run must end; resumed, it samples anew", step + 1)
    metrics["timing_s/wait_update"] = max(updated - sampling.ended_at, 0.0)

    if stats is not None:
        with timer.stage("sync_weights"):
            weights = parts.trainer.publish_weights()
            if not sampling.given_up:  # else the process ends, and the engine may still be busy
                parts.engine.load_weights(weights)
        timer.move(stats.old_logprob_seconds, "update_actor", "old_log_prob")
        metrics |= {**stats.metrics, **staleness_metrics(kept, stats.version)}
        quarantine = parts.bad_samples.lost(state.quarantine, stats.unreadable, step)
        state = replace(state, quarantine=quarantine, version=weights.version)
    if ahead is not None:
        quarantine = parts.bad_samples.joined(state.quarantine, ahead.state.quarantine, step + 1)
        state = replace(state, ahead=replace(ahead, state=replace(ahead.state, quarantine=quarantine)))

    metrics |= {**timer.metrics(), **sampler.timings()}
    metrics |= perf_metrics(metrics, sampler.generated, sampled.rollouts, parts.prompt_length)
    return StepResult(metrics, sampled.rollouts, state)


def _of_kept(sampled: Sampled, number: int) -> dict[str, float]:
    """The metrics of `sampled`, corrected for kept prompts that are too old. number: prompts that are trained on."""
    left_out = len(sampled.kept) - number
    metrics = dict(sampled.metrics)
    metrics["mars/prompts_kept"] -= left_out
    metrics["mars/prompts_too_old"] += left_out
    return metrics


class _Sampler:
    """Samples during one step, for this step or for the next. generated: all rollouts that it has sampled."""

    def __init__(self, parts: StepParts, stream: PromptRounds, overlap: Overlap, busy: _BusyTrainer) -> None:
        self._parts, self._stream, self._overlap, self._busy = parts, stream, overlap, busy
        self._timer = StepTimer()
        self.generated: list[PromptRollouts] = []

    def sample(self, parts: StepParts, state: SamplingState, step: int, trained_by: int) -> Sampled:
        """As `mars.sampling.sample`, but leaves out prompts that are too old, both among those that were carried to
        `step` and among those that are carried to the step after it.

        trained_by: version of the weights that train on the kept prompts. Version `trained_by` + 1 trains on the
        prompts that are carried to the next step.
        """
        bound = self._overlap.max_staleness
        young = within_bound(state.carried, trained_by, bound)
        sampled = sample(parts, self._stream, replace(state, carried=young), step, self._timer)
        self.generated += sampled.rollouts
        without_too_old(sampled.kept, trained_by, bound)  # raises before a checkpoint can have such responses
        beyond = sampled.state.carried
        carried = within_bound(beyond, trained_by + 1, bound)
        too_old = len(state.carried) - len(young) + len(beyond) - len(carried)
        metrics = {**sampled.metrics, "mars/prompts_too_old": too_old, "mars/prompts_carried": len(carried)}
        return replace(sampled, state=replace(sampled.state, carried=carried), metrics=metrics)

    def sample_ahead(self, state: SamplingState, step: int, trained_by: int) -> Sampled | None:
        """Sample for `step`. Called in the thread of a `Background`. Returns None if the run ends before `step`."""
        if self._overlap.is_last(step - 1, state):
            return None
        stoppable = cast(RolloutEngine, _StoppableEngine(self._parts.engine))
        trainer = cast(PolicyTrainer, self._busy)
        sampled = self.sample(replace(self._parts, engine=stoppable, trainer=trainer), state, step, trained_by)
        if not self._overlap.is_last(step, sampled.state):
            # While the trainer still updates, the engine reads the images of the round that follows the sampled ones.
            requests = self._parts.plan_at(step + 1).requests(self._stream.batch(sampled.state.round), step + 1)
            self._parts.engine.prefetch(requests)
        return sampled

    def timings(self) -> dict[str, float]:
        """Seconds of the stages of this object's sampling, which overlap with the step's own stages."""
        metrics = self._timer.metrics()
        return {key: metrics[key] for key in (f"timing_s/{stage}" for stage in SAMPLING_STAGES) if key in metrics}


class _StoppableEngine:
    """A `RolloutEngine` that can be stopped (`background.check`) whenever `generate` yields, not only while it waits
    for samples: samples may come so fast that it never waits."""

    def __init__(self, engine: RolloutEngine) -> None:
        self._engine = engine

    def generate(self, requests: Iterable[RolloutRequest | None]) -> Iterator[list[FinishedSample | UnreadableRequest]]:
        background.check()
        with ended(self._engine.generate(requests)) as call:
            for finished in call:
                background.check()
                yield finished

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


class _BusyTrainer:
    """The trainer for a sampling during an update: its `score_responses` waits until the update has ended.

    So its numbers, such as a KL, come from the weights with which the next update starts, whichever thread was faster.
    """

    def __init__(self, trainer: PolicyTrainer) -> None:
        self._trainer, self._updated = trainer, threading.Event()
        self._call, self._is_lent = threading.Lock(), True

    def lend(self) -> None:
        """Records that the update has ended. From now on, the sampling may use the trainer."""
        self._updated.set()

    def take_back(self) -> None:
        """Wait for the end of a running call of `score_responses`, if any. A later call raises `background.Stopped`,
        which ends the sampling."""
        with self._call:
            self._is_lent = False

    def score_responses(
        self, batch: TrainBatch, spec: ScoringSpec, spans: Sequence[Sequence[Span]] | None = None
    ) -> ResponseScores:
        while not self._updated.wait(_LOOK_S):
            background.check()
        with self._call:
            background.check()
            if not self._is_lent:
                raise background.Stopped
            return self._trainer.score_responses(batch, spec, spans)
