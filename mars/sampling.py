"""The first half of a training step: from prompts to the responses it trains on, with their advantages.

    stream ── prompts ──> plan ── requests ──> engine ── samples ──> reward processes
                                                                        │ scores
     ┌── selection <── advantages <── penalties, <── rollouts by prompt ┘
     │                 computed here,  hook shaping
     │                 once, in float64
     ├── up to `prompts_per_step` prompts ── hook advantage ──> `Sampled.kept`: this step trains on them
     └── kept prompts beyond that ──────────> `SamplingState.carried`: the next step trains on them first

Without dynamic sampling (`selection` "all") one round of prompts is a step. With it, rounds of fresh prompts are
sampled until enough of them have an advantage that is not 0. A prompt with an image that cannot be read goes to
`SamplingState.quarantine`, and no later round has it. Hooks are those of the section `recipe` (docs/extend.md).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any, Literal, Protocol

from mars.actor.trainer import PolicyTrainer, SkippedReport, warn_of_skipped
from mars.algorithms.advantages import Advantages, AdvantageSettings
from mars.algorithms.metrics import method_metrics
from mars.algorithms.penalties import OverlongPenalty, score_metrics, with_kl_penalty, with_overlong_penalty
from mars.algorithms.pooled_rewards import AnchorViews, PooledRewards, truncated_rows, with_advantages, with_own_groups
from mars.algorithms.reward_parts import batch_normalized, part_advantages
from mars.algorithms.scoring import KL_TO_REFERENCE
from mars.algorithms.selection import select_prompts
from mars.answers.record import BoxFrames, PromptLength
from mars.hooks.step_hooks import NO_HOOKS, StepHooks
from mars.quarantine import BadSamples, Quarantine
from mars.rewards.contract import RewardScorer
from mars.rollout.collect import ScoredStream, collect, score_stream, with_following
from mars.rollout.engine import RolloutEngine, ended
from mars.rollout.extras import PlannedRequests
from mars.rollout.metrics import engine_metrics, extra_metrics, rollout_metrics
from mars.rollout.plan import RolloutPlan
from mars.signals import ScoringBatch, measured
from mars.tracking.timer import StepTimer
from mars.train_types import TrainBatch
from mars.turns import NoTurns, Turns
from mars.types import Prompt, PromptRollouts, SampledPrompt

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepParts:
    """Everything a step uses, made once by mars/build.py.

    part_weights: part of the reward -> its weight in the advantage; empty: advantages are computed from the score.
    mask_truncated: whether responses cut at the token limit get weight 0. Their rewards count in the statistics.
    overlong: penalty of long responses, None for none.
    kl_in_reward: every reward loses this many units per nat of KL to the reference model; 0: no KL is computed.
    max_rounds: rounds of prompts that a step may sample.
    decode: response ids to text. frames: (prompt, view) -> the sizes to which truth and response boxes refer.
    prompt_length: number of tokens in a request's prompt, images expanded.
    collate: prompts to train on -> the trainer's batch. scoring_batch: rollouts -> a batch that is only scored.
    by_prompt: whether all responses to a prompt are scored together (`reward.by_prompt`).
    reward_counts: what reward functions have counted so far, by name of the metric.
    bad_samples: what happens to prompts that cannot be read. hooks: those of the section `recipe` that a step calls.
    report_skipped: told of updates that were not finite. turns: of engine and trainer on the same GPUs.
    """

    engine: RolloutEngine
    trainer: PolicyTrainer
    scorer: RewardScorer
    plan: RolloutPlan
    advantage: AdvantageSettings
    part_weights: Mapping[str, float]
    mask_truncated: bool
    overlong: OverlongPenalty | None
    kl_in_reward: float
    selection: Literal["all", "nonzero_advantage"]
    max_rounds: int
    decode: Callable[[Sequence[int]], str]
    frames: BoxFrames
    prompt_length: PromptLength
    collate: Callable[[Sequence[SampledPrompt]], TrainBatch]
    scoring_batch: ScoringBatch
    bad_samples: BadSamples
    by_prompt: bool = False
    reward_counts: Callable[[], Mapping[str, float]] = dict
    hooks: StepHooks = NO_HOOKS
    report_skipped: SkippedReport = warn_of_skipped
    turns: Turns = field(default_factory=NoTurns)

    def plan_at(self, step: int) -> RolloutPlan:
        """The plan with the values that `ramps` give the step."""
        return self.plan.at(self.hooks.scheduled(step)) if self.hooks.ramps else self.plan

    def kl_in_reward_at(self, step: int) -> float:
        key = "algorithm.kl_coefficient"
        return self.hooks.scheduled(step).get(key, self.kl_in_reward) if self.kl_in_reward > 0 else 0.0


class PromptRounds(Protocol):
    """An endless stream of prompts: round i has `prompts_per_step` different ones (mars/data/order/stream.py), or those
    that a sampler chooses (mars/hooks/prompt_sampler.py), which learns from `observe` and asks for `probes`. `len()`
    gives the number of different prompts in an epoch; `num_prompts` counts those that were added since, too.
    left_out: ids of prompts that cannot be read. read_added: reads added rows again; snapshots of hooks name them."""

    prompts_per_step: int

    @property
    def num_prompts(self) -> int: ...

    def batch(self, step: int) -> Sequence[Prompt]: ...

    def __len__(self) -> int: ...

    def probes(self, step: int, round: int) -> Sequence[Prompt]: ...

    def observe(
        self, rollouts: Sequence[PromptRollouts], step: int, left_out: Collection[str] = ()
    ) -> Mapping[str, float]: ...

    def state(self, round: int) -> Mapping[str, Any]: ...

    def read_added(self, snapshots: Iterable[str]) -> None: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class SamplingState:
    """What a step hands to the next.

    round: rounds drawn from the stream so far.
    surplus: prompts that they had beyond `prompts_per_step` each; below 0: fewer. A round without prompts adds 0.
    carried: kept prompts beyond this step's quota; the next step trains on them first.
    quarantine: prompts that could not be read, which are not sampled again.
    version: of the engine's weights. Another process may count from another number, so it is not compared.
    ahead: what the next step trains on, if it is sampled already (mars/step_async.py).
    hooks: what the hooks keep between steps (`StepHooks.snapshot`), at the end of the sampling.
    """

    round: int
    carried: tuple[SampledPrompt, ...]
    quarantine: Quarantine = field(default_factory=Quarantine)
    version: int = field(default=0, compare=False)
    ahead: Sampled | None = None
    hooks: str | None = None
    surplus: int = 0


@dataclass(frozen=True)
class Sampled:
    """rollouts: everything sampled in this step, kept or not. kept: the prompts to train on, carried ones first.

    metrics: of the rollouts, by their documented names (docs/metrics.md).
    """

    rollouts: Sequence[PromptRollouts]
    kept: Sequence[SampledPrompt]
    state: SamplingState
    metrics: Mapping[str, float]


def sample(parts: StepParts, stream: PromptRounds, state: SamplingState, step: int, timer: StepTimer) -> Sampled:
    """Sample rounds of fresh prompts until `prompts_per_step` prompts are kept, the carried ones included.

    A step has fewer prompts if it reaches `max_rounds`, or if it has sampled or carried every prompt of the stream. A
    round leaves out the prompts that the step has sampled or carried already, and those that cannot be read.
    Raises DataError if too many cannot be read (`BadSamples.tried`).
    """
    quarantine = _probed(parts, stream, state, step, timer)
    counts_before, reward_counts_before = parts.engine.counts(), parts.reward_counts()
    # The first part has no prompts, so that `Advantages.joined` works for a step that samples no round.
    rollouts, advantages = [], [PooledRewards.of_rollouts([]).advantages(parts.advantage)]
    kept, round_number, surplus = list(state.carried), state.round, state.surplus
    carried_ids = {item.rollouts.prompt.prompt_id for item in state.carried}
    while len(kept) < stream.prompts_per_step and round_number - state.round < parts.max_rounds:
        present = carried_ids | quarantine.prompt_ids | {item.prompt.prompt_id for item in rollouts}
        if len(present) == stream.num_prompts:
            break
        drawn = stream.batch(round_number)
        fresh = [prompt for prompt in drawn if prompt.prompt_id not in present]
        round_number, surplus = round_number + 1, surplus + (len(drawn) - stream.prompts_per_step if drawn else 0)
        if not fresh:
            continue
        of_round, unreadable = scored_rollouts(parts, fresh, step, timer)
        quarantine = parts.bad_samples.tried(quarantine, fresh, unreadable, step)
        rewards = PooledRewards.of_rollouts(of_round)
        advantages.append(_advantages(parts, of_round))
        selection = select_prompts(advantages[-1], rewards.prompt_index, parts.selection)
        prompts = with_advantages(of_round, advantages[-1])
        prompts = with_own_groups(prompts, partial(_advantages, parts))
        kept += [item for item, keep in zip(prompts, selection.keep.tolist(), strict=True) if keep]
        rollouts += of_round
    if not rollouts and not carried_ids:
        logger.warning(
            "step %d samples nothing: no prompt of its %d rounds can be read", step, round_number - state.round
        )
    kept, beyond = kept[: stream.prompts_per_step], kept[stream.prompts_per_step :]
    carried = tuple(replace(item, carried=True) for item in beyond)
    batch_metrics = {}
    if parts.part_weights:
        kept, batch_metrics["critic/advantages/batch_std"] = batch_normalized(kept, parts.advantage)
    kept, rule_metrics = parts.hooks.weighted(kept, parts.advantage, step)

    metrics = _metrics(parts, rollouts, Advantages.joined(advantages)) | batch_metrics | rule_metrics
    metrics |= {f"ramp/{key}": value for key, value in parts.hooks.scheduled(step).items()}
    metrics |= stream.observe(rollouts, step, quarantine.prompt_ids)
    metrics |= engine_metrics(parts.engine.counts() - counts_before)
    metrics |= {name: value - reward_counts_before.get(name, 0) for name, value in parts.reward_counts().items()}
    metrics |= {"mars/rounds": round_number - state.round, "mars/prompts_sampled": len(rollouts)}
    metrics |= {"mars/prompts_kept": len(kept), "mars/prompts_carried": len(carried)}
    snapshot = parts.hooks.snapshot(stream.state(round_number))
    after = SamplingState(round_number, carried, quarantine, state.version, hooks=snapshot, surplus=surplus)
    return Sampled(rollouts, kept, after, metrics)


def _probed(parts: StepParts, stream: PromptRounds, state: SamplingState, step: int, timer: StepTimer) -> Quarantine:
    """Sample the prompts that the stream wants to know more about, and show it the rollouts. Nothing trains on them."""
    wanted = stream.probes(step, state.round)
    probes = [prompt for prompt in wanted if prompt.prompt_id not in state.quarantine.prompt_ids]
    if not probes:
        return state.quarantine
    with timer.stage("probe"):
        # Without shapings, which may need extra requests.
        probing = replace(parts, plan=parts.plan.of_probes(), hooks=replace(parts.hooks, shaping=()))
        rollouts, unreadable = scored_rollouts(probing, probes, step, StepTimer())
    quarantine = parts.bad_samples.tried(state.quarantine, probes, unreadable, step)
    stream.observe(rollouts, step, quarantine.prompt_ids)
    return quarantine


def scored_rollouts(
    parts: StepParts, prompts: Sequence[Prompt], step: int, timer: StepTimer
) -> tuple[list[PromptRollouts], Mapping[str, str]]:
    """The rollouts of each prompt with their rewards, penalties included; and prompt id -> why it cannot be read.

    One engine call generates all views of all prompts, so that multi and mono views share the engine's caches. There is
    a second one if a recipe asks more about the responses.
    """
    plan = parts.plan_at(step)
    planned = plan.planned(prompts, step)
    scored = _answers(parts, prompts, planned, step, timer)
    rollouts, unreadable = collect(prompts, planned.all, scored.samples, scored.unreadable), scored.unreadable
    following = plan.following(rollouts, step)
    if following.all:
        scored = _answers(parts, prompts, following, step, timer)
        rollouts = with_following(rollouts, following.all, scored.samples, scored.unreadable)
        unreadable = {**unreadable, **scored.unreadable}
    if parts.overlong is not None:
        rollouts = with_overlong_penalty(rollouts, parts.overlong)
    asked, stage = parts.hooks.signals, partial(timer.stage, "signals")
    signals = measured(asked, rollouts, step, parts.scoring_batch, parts.trainer, parts.decode, stage)
    unreadable = {**unreadable, **signals.unreadable}
    rollouts = [item for item in rollouts if item.prompt.prompt_id not in signals.unreadable]
    rollouts = parts.hooks.shaped(rollouts, step, signals)
    if (coefficient := parts.kl_in_reward_at(step)) > 0 and rollouts:
        batch = parts.scoring_batch(rollouts)
        with timer.stage("ref"):
            kl = parts.trainer.score_responses(batch, KL_TO_REFERENCE)
        unreadable = {**unreadable, **kl.unreadable}
        rollouts = [item for item in rollouts if item.prompt.prompt_id not in kl.unreadable]
        rollouts = with_kl_penalty(rollouts, kl.readable(batch), coefficient)
    return rollouts, unreadable


def _answers(
    parts: StepParts, prompts: Sequence[Prompt], planned: PlannedRequests, step: int, timer: StepTimer
) -> ScoredStream:
    # A response is scored as soon as it is finished, while others are generated: "gen" is the time spent waiting for
    # the engine, "reward" what scoring takes after the last response.
    answers = parts.engine.generate(planned.requests) if planned.requests else iter(())
    with ended(answers) as call, timer.stage("reward"):
        finished = chain([planned.given_samples()], timer.during("gen", call))
        return score_stream(
            prompts,
            planned.all,
            finished,
            decode=parts.decode,
            frames=parts.frames,
            scorer=parts.scorer,
            step=step,
            by_prompt=parts.by_prompt,
        )


def _advantages(parts: StepParts, rollouts: Sequence[PromptRollouts]) -> Advantages:
    if parts.part_weights:
        found = part_advantages(rollouts, parts.part_weights, parts.advantage, parts.hooks.parts)
    else:
        found = PooledRewards.of_rollouts(rollouts).advantages(parts.advantage)
    return found.without(truncated_rows(rollouts)) if parts.mask_truncated else found


def _metrics(parts: StepParts, rollouts: Sequence[PromptRollouts], advantages: Advantages) -> dict[str, float]:
    rewards, views = PooledRewards.of_rollouts(rollouts), AnchorViews.of_rollouts(rollouts)
    metrics = method_metrics(rewards, views, advantages)
    if parts.mask_truncated:
        metrics["mars/responses_masked"] = float(truncated_rows(rollouts).sum())
    return metrics | score_metrics(rollouts) | rollout_metrics(rollouts, parts.prompt_length) | extra_metrics(rollouts)
