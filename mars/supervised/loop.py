"""The loop of a cold start: a step, the held-out loss if due, tracking, a checkpoint if due, and the next step."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, replace

from mars import faults, interrupts
from mars.actor.trainer import SupervisedTrainer
from mars.checkpoint.saver import Checkpoints
from mars.checkpoint.state import RunState
from mars.config.schema import SftConfig
from mars.data.order.stream import PromptStream
from mars.data.prompts.prepare import PromptSet
from mars.fit import last_step
from mars.step_parts import SamplingState
from mars.supervised.batches import Batches
from mars.tracking.tracker import Tracker
from mars.train_types import TrainBatch


@dataclass(frozen=True)
class SupervisedParts:
    """What the loop calls. held_out: None without a held-out set."""

    trainer: SupervisedTrainer
    batches: Batches
    stream: PromptStream
    held_out: PromptSet | None


def fit_supervised(
    parts: SupervisedParts,
    *,
    tracker: Tracker,
    checkpoints: Checkpoints,
    start: RunState,
    config: SftConfig,
    num_dropped: int,
) -> RunState:
    """Train from the state `start` to the last step, and return the state after it. Steps count from 1.

    num_dropped: number of rows left out of the training set, for the metric `data/dropped`.

    If SIGTERM, SIGHUP or Ctrl-C comes during an update, KeyboardInterrupt is raised only after the update. Before it
    leaves this function, the state after the last finished step is saved.
    """
    last = last_step(config.run, parts.stream)

    def finish(state: RunState) -> RunState:
        """Compute the held-out loss if it is due. Track the step's metrics then, and when `sft.log_every` is due."""
        if state.logged:
            return state
        metrics = {**state.metrics, "fault/checkpoint": checkpoints.failures}
        held_out = _is_due(state.step, config.sft.eval_every, last) and parts.held_out is not None
        if held_out:
            metrics |= held_out_loss(parts)
        if held_out or _is_due(state.step, config.sft.log_every, last):
            tracker.log(metrics, state.step)
        return replace(state, metrics=metrics, logged=True)

    state = start
    try:
        state = finish(state)
        for step in range(state.step + 1, last + 1):
            begun = time.perf_counter()
            batch = parts.batches.of_step(parts.stream, step)
            interrupts.defer()
            metrics = dict(parts.trainer.update(batch))
            metrics |= _facts(batch, time.perf_counter() - begun)
            metrics["data/epoch"] = step * parts.stream.prompts_per_step / len(parts.stream)
            metrics["data/dropped"] = num_dropped
            state = RunState(step, SamplingState(round=step, carried=()), metrics, logged=False)
            interrupts.allow()  # deferred since the update began
            state = finish(state)
            faults.point("step.logged")
            checkpoints.save_if_due(state)
        checkpoints.save_now(state)
    except KeyboardInterrupt:
        checkpoints.save_now(state)
        raise
    return state


def held_out_loss(parts: SupervisedParts) -> dict[str, float]:
    """Mean cross-entropy per response token over the rows and views of `Batches.held_out`: over all of them, and
    separately over those with several images, with one and with none.

    SIGTERM, SIGHUP and Ctrl-C take effect only when the current batch is finished.
    """
    assert parts.held_out is not None  # as the caller has checked
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for batch in parts.batches.held_out(parts.held_out.prompts):
        interrupts.defer()
        losses = parts.trainer.losses(batch)
        interrupts.allow()
        for prompt, loss in zip(batch.prompts, losses, strict=True):
            kind = {0: "text", 1: "mono"}.get(len(prompt.images), "multi")
            for name in ("eval/loss", f"eval/{kind}/loss"):
                sums[name][0] += loss
                sums[name][1] += len(prompt.responses[0].token_ids)
    return {name: loss / tokens for name, (loss, tokens) in sums.items()}


def _is_due(step: int, every: int, last: int) -> bool:
    return step == last or (every > 0 and step % every == 0)


def _facts(batch: TrainBatch, seconds: float) -> dict[str, float]:
    tokens = sum(prompt.num_prompt_tokens + len(prompt.responses[0].token_ids) for prompt in batch.prompts)
    mono = sum(len(prompt.images) == 1 for prompt in batch.prompts) / len(batch.prompts)
    return {"sft/mono_share": mono, "timing_s/step": seconds, "perf/throughput": tokens / seconds}
