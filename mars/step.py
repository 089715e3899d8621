"""One training step of mars, top to bottom. Start reading here.

    prompts ── plan ──> requests ── engine ──> completions ── rewards ──> rollouts of each prompt
                                                                              │
            new weights <── trainer <── batch <── kept prompts <── advantages ┘

A prompt about several images ("sources") of one scene is sampled G times with all of them (the multi view), and a
few times with one of them (its mono views, the anchors). Its advantages are normalised over all these rewards
together, so a multi-source response is rewarded for beating what single sources achieve. Only multi responses are
trained on. docs/step.md explains every line.

Nothing here knows which engine generates, which trainer trains or on how many machines: those are behind the
interfaces of mars/rollout/engine.py, mars/actor/trainer.py and mars/rewards/reward.py, and mars/build.py chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mars.actor.trainer import PolicyTrainer
from mars.algorithms.advantages import AdvantageSettings
from mars.algorithms.diagnostics import method_metrics
from mars.algorithms.pooled_rewards import AnchorViews, PooledRewards
from mars.algorithms.selection import select_prompts
from mars.rewards.reward import RewardScorer
from mars.rollout.collect import BoxFrames, collect
from mars.rollout.engine import RolloutEngine
from mars.rollout.metrics import processed_tokens, rollout_metrics
from mars.rollout.plan import RolloutPlan
from mars.tracking.timer import StepTimer
from mars.types import Prompt, PromptRollouts, RolloutRequest, TrainBatch


@dataclass(frozen=True)
class StepParts:
    """Everything a step uses, made once by mars/build.py.

    decode: response ids to text. frames: the pixel frames of truth and response boxes. prompt_length: tokens of a
    request's prompt with its images. collate: kept prompts to the batch the trainer takes.
    """

    engine: RolloutEngine
    trainer: PolicyTrainer
    scorer: RewardScorer
    plan: RolloutPlan
    advantage: AdvantageSettings
    selection: Literal["all", "nonzero_advantage"]
    decode: Callable[[Sequence[int]], str]
    frames: BoxFrames
    prompt_length: Callable[[RolloutRequest], int]
    collate: Callable[[Sequence[PromptRollouts]], TrainBatch]


@dataclass(frozen=True)
class StepResult:
    """Metrics by their documented names (docs/metrics.md), and all rollouts of the step."""

    metrics: Mapping[str, float]
    rollouts: Sequence[PromptRollouts]


def train_step(parts: StepParts, prompts: Sequence[Prompt], step: int) -> StepResult:
    """Sample, score, take advantages, update the policy, and give the engine the new weights."""
    timer = StepTimer()

    # One engine call for all views of all prompts: its caches then serve the multi and the mono views alike.
    requests = parts.plan.requests(prompts, step)
    with timer.stage("gen"):
        completions = parts.engine.generate(requests)

    # Every response is scored, and goes back to its prompt by id.
    with timer.stage("reward"):
        rollouts = collect(
            prompts, requests, completions, decode=parts.decode, frames=parts.frames, scorer=parts.scorer
        )

    # Mono-anchored advantages decide which prompts carry signal; the trainer takes the same ones from the same numbers.
    rewards = PooledRewards.of_rollouts(rollouts)
    advantages = rewards.advantages(parts.advantage)
    selection = select_prompts(advantages, rewards.prompt_index, parts.selection)
    kept = [item for item, keep in zip(rollouts, selection.keep.tolist(), strict=True) if keep]
    metrics = method_metrics(rewards, AnchorViews.of_rollouts(rollouts), advantages)
    metrics |= rollout_metrics(rollouts, parts.prompt_length)
    metrics["mars/prompts_kept"] = len(kept)

    # Clipped policy-gradient updates, then the engine gets the new weights. Without a kept prompt both stay.
    if kept:
        batch = parts.collate(kept)
        with timer.stage("update_actor"):
            stats = parts.trainer.update(batch)
        with timer.stage("sync_weights"):
            parts.engine.load_weights(parts.trainer.publish_weights())
        timer.move(stats.old_logprob_seconds, "update_actor", "old_log_prob")
        metrics |= stats.metrics

    metrics |= timer.metrics()
    metrics["perf/throughput"] = processed_tokens(rollouts, parts.prompt_length) / metrics["timing_s/step"]
    return StepResult(metrics, rollouts)
