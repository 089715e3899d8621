"""One training step of mars, top to bottom. Start reading here.

    prompts ── plan ──> requests ── engine ──> completions ── rewards ──> rollouts of each prompt
                                                                              │
            new weights <── trainer <── batch <── kept prompts <── advantages ┘

A prompt about several images ("sources") of one scene is sampled G times with all of them (the multi view), and a
few times with one of them (its mono views, the anchors). Its advantages are normalised over all these rewards
together, so a multi-source response is rewarded for beating what single sources achieve. Only multi responses are
trained on. docs/step.md explains every line.

Nothing here knows which engine generates, which trainer trains or on how many machines: those are behind the
interfaces of mars/rollout/engine.py, mars/actor/trainer.py and mars/rewards/contract.py, and mars/build.py chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from mars.actor.trainer import PolicyTrainer
from mars.algorithms.advantages import AdvantageSettings
from mars.algorithms.metrics import method_metrics
from mars.algorithms.penalties import OverlongPenalty, score_metrics, with_kl_penalty, with_overlong_penalty
from mars.algorithms.pooled_rewards import AnchorViews, PooledRewards
from mars.algorithms.selection import select_prompts
from mars.answers.record import BoxFrames
from mars.rewards.contract import RewardScorer
from mars.rollout.collect import collect, score_stream
from mars.rollout.engine import RolloutEngine
from mars.rollout.metrics import anchor_share, engine_metrics, processed_tokens, rollout_metrics
from mars.rollout.plan import RolloutPlan
from mars.tracking.timer import StepTimer
from mars.types import Prompt, PromptRollouts, RolloutRequest, TrainBatch


@dataclass(frozen=True)
class StepParts:
    """Everything a step uses, made once by mars/build.py.

    overlong: penalty of long responses, None for none. kl_in_reward: what every reward loses for each nat to the
    reference model; 0 asks for none. max_rounds: see `train_step`. decode: response ids to text. frames: the pixel
    frames of truth and response boxes. prompt_length: tokens of a request's prompt with its images. collate: prompts
    to train on, and how many of the first were carried over, to the trainer's batch. scoring_batch: rollouts to a
    batch that is only scored.
    """

    engine: RolloutEngine
    trainer: PolicyTrainer
    scorer: RewardScorer
    plan: RolloutPlan
    advantage: AdvantageSettings
    overlong: OverlongPenalty | None
    kl_in_reward: float
    selection: Literal["all", "nonzero_advantage"]
    max_rounds: int
    decode: Callable[[Sequence[int]], str]
    frames: BoxFrames
    prompt_length: Callable[[RolloutRequest], int]
    collate: Callable[[Sequence[PromptRollouts], int], TrainBatch]
    scoring_batch: Callable[[Sequence[PromptRollouts]], TrainBatch]


class PromptRounds(Protocol):
    """Prompts without end: round i has `prompts_per_step` of them, all different (mars/data/order/stream.py). Its
    length is how many different prompts there are."""

    prompts_per_step: int

    def batch(self, step: int) -> Sequence[Prompt]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class SamplingState:
    """What a step hands to the next. round: rounds drawn from the stream. carried: kept prompts that were over."""

    round: int
    carried: tuple[PromptRollouts, ...]


@dataclass(frozen=True)
class StepResult:
    """Metrics by their documented names (docs/metrics.md), all rollouts sampled in the step, and the next state."""

    metrics: Mapping[str, float]
    rollouts: Sequence[PromptRollouts]
    state: SamplingState


def train_step(parts: StepParts, stream: PromptRounds, state: SamplingState, step: int) -> StepResult:
    """Sample, score, take advantages, update the policy, and give the engine the new weights.

    Sampling goes in rounds of fresh prompts until enough carry signal, `max_rounds` at most, or until the step has had
    every prompt there is; then what there is is trained on. Without dynamic sampling (`selection` all) one round is a
    step.
    """
    timer, counts_before = StepTimer(), parts.engine.counts()
    sampled: list[PromptRollouts] = []
    kept, round_number = list(state.carried), state.round
    while len(kept) < stream.prompts_per_step and round_number - state.round < parts.max_rounds:
        present = {item.prompt.prompt_id for item in (*sampled, *state.carried)}
        if len(present) == len(stream):
            break
        fresh = [prompt for prompt in stream.batch(round_number) if prompt.prompt_id not in present]
        round_number += 1
        if not fresh:
            continue
        rollouts = sample(parts, fresh, step, timer)
        sampled += rollouts
        # Mono-anchored advantages decide which prompts carry signal; the trainer takes the same from the same numbers.
        rewards = PooledRewards.of_rollouts(rollouts)
        selection = select_prompts(rewards.advantages(parts.advantage), rewards.prompt_index, parts.selection)
        kept += [item for item, keep in zip(rollouts, selection.keep.tolist(), strict=True) if keep]
    kept, carried = kept[: stream.prompts_per_step], tuple(kept[stream.prompts_per_step :])

    rewards = PooledRewards.of_rollouts(sampled)
    metrics = method_metrics(rewards, AnchorViews.of_rollouts(sampled), rewards.advantages(parts.advantage))
    metrics |= score_metrics(sampled) | rollout_metrics(sampled, parts.prompt_length)
    metrics |= engine_metrics(parts.engine.counts() - counts_before)
    metrics |= {"mars/rounds": round_number - state.round, "mars/prompts_sampled": len(sampled)}
    metrics |= {"mars/prompts_kept": len(kept), "mars/prompts_carried": len(carried)}

    # Clipped policy-gradient updates, then the engine gets the new weights. Without a kept prompt both stay.
    if kept:
        batch = parts.collate(kept, len(state.carried))
        # While the trainer updates, the engine reads the images of the next round.
        parts.engine.prefetch(parts.plan.requests(stream.batch(round_number), step + 1))
        with timer.stage("update_actor"):
            stats = parts.trainer.update(batch)
        with timer.stage("sync_weights"):
            parts.engine.load_weights(parts.trainer.publish_weights())
        timer.move(stats.old_logprob_seconds, "update_actor", "old_log_prob")
        metrics |= stats.metrics

    metrics |= timer.metrics()
    generation = metrics.get("timing_s/gen", 0.0)
    metrics["perf/anchor_gen_seconds_attributed"] = generation * anchor_share(sampled, parts.prompt_length)
    metrics["perf/throughput"] = processed_tokens(sampled, parts.prompt_length) / metrics["timing_s/step"]
    return StepResult(metrics, sampled, SamplingState(round_number, carried))


def sample(parts: StepParts, prompts: Sequence[Prompt], step: int, timer: StepTimer) -> list[PromptRollouts]:
    """The scored rollouts of each prompt: one engine call for all views, whose caches then serve multi and mono."""
    requests = parts.plan.requests(prompts, step)
    # A response is scored when it is finished, while others are generated: "reward" is what is left after the last.
    finished = timer.during("gen", parts.engine.generate(requests))
    with timer.stage("reward"):
        scored = score_stream(
            prompts, requests, finished, decode=parts.decode, frames=parts.frames, scorer=parts.scorer
        )
    rollouts = collect(prompts, requests, scored)
    if parts.overlong is not None:
        rollouts = with_overlong_penalty(rollouts, parts.overlong)
    if parts.kl_in_reward > 0:
        with timer.stage("ref"):
            kl = parts.trainer.kl_to_reference(parts.scoring_batch(rollouts))
        rollouts = with_kl_penalty(rollouts, kl, parts.kl_in_reward)
    return rollouts
