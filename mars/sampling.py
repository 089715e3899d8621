"""The first half of a training step: from prompts to responses with their advantages.

    stream ── prompts ──> plan ── requests ──> engine ── samples ──> reward processes
                                                                                │ scores
     ┌── selection <── advantages <── penalties, shaping <── rollouts by prompt ┘
     │                 (computed here, once, in float64)
     ├── up to `prompts_per_step` prompts ── hook advantage ──> `Sampled.kept`: this step trains on them
     └── kept prompts beyond that ──────────> `SamplingState.carried`: the next step trains on them first

Without dynamic sampling (`selection` "all") a step has one round of prompts. With dynamic sampling, rounds of fresh
prompts are sampled until enough prompts have an advantage that is not 0.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from mars.algorithms.advantages import Advantages
from mars.algorithms.allocation import allocation_metrics
from mars.algorithms.anchor_use import AnchorCounts
from mars.algorithms.metrics import method_metrics
from mars.algorithms.penalties import score_metrics
from mars.algorithms.pooled_rewards import AnchorViews, PooledRewards, truncated_rows, with_advantages, with_own_groups
from mars.algorithms.reward_parts import batch_normalized, part_advantages
from mars.algorithms.selection import select_prompts
from mars.quarantine import Quarantine
from mars.rollout.metrics import engine_metrics, extra_metrics, rollout_metrics
from mars.scored_rollouts import scored_rollouts
from mars.step_parts import PromptRounds, Sampled, SamplingState, StepParts
from mars.tracking.timer import StepTimer
from mars.types import PromptRollouts

logger = logging.getLogger(__name__)


def sample(parts: StepParts, stream: PromptRounds, state: SamplingState, step: int, timer: StepTimer) -> Sampled:
    """Sample rounds of fresh prompts until `prompts_per_step` prompts are kept, the carried ones included.

    The step ends with fewer prompts if it reaches `max_rounds`, or if no prompt of the stream is left for a round. A
    round leaves out carried prompts, prompts that the step has sampled already, and prompts that cannot be read.
    Raises DataError if too many prompts cannot be read (`BadSamples.tried`).
    """
    quarantine = _probed(parts, stream, state, step, timer)
    counts_before, reward_counts_before = parts.engine.counts(), parts.reward_counts()
    # The first entry has no prompts, so that `Advantages.joined` works for a step that samples no round.
    rollouts, advantages = [], [PooledRewards.of_rollouts([]).advantages(parts.advantage)]
    kept, round_number, surplus = list(state.carried), state.round, state.surplus
    counts, targets = AnchorCounts(), frozenset[str]()
    carried_ids = {item.rollouts.prompt.prompt_id for item in state.carried}
    while len(kept) < stream.prompts_per_step and round_number - state.round < parts.max_rounds:
        present = carried_ids | quarantine.prompt_ids | {item.prompt.prompt_id for item in rollouts}
        if len(present) == stream.num_prompts:
            break
        drawn, this_round = stream.batch(round_number), round_number
        fresh = [prompt for prompt in drawn if prompt.prompt_id not in present]
        round_number, surplus = round_number + 1, surplus + (len(drawn) - stream.prompts_per_step if drawn else 0)
        if not fresh:
            continue
        scored = scored_rollouts(parts, fresh, step, timer)
        quarantine = parts.bad_samples.tried(quarantine, fresh, scored.unreadable, step)
        of_round, targets = scored.rollouts, targets | scored.targets
        # Guests are chosen before the selection, because a prompt is kept, dropped or carried with its guests.
        of_round, of_anchors = parts.anchor_use.applied(of_round, parts.plan.seed, step, this_round)
        counts += of_anchors
        rewards = PooledRewards.of_rollouts(of_round)
        advantages.append(_advantages(parts, of_round))
        selection = select_prompts(advantages[-1], rewards.prompt_index, parts.selection)
        prompts = with_advantages(of_round, advantages[-1])
        prompts = with_own_groups(prompts, partial(_advantages, parts))
        kept += [item for item, keep in zip(prompts, selection.keep.tolist(), strict=True) if keep]
        rollouts += of_round
    _warn_of_unusable(rollouts, len(state.carried), step, round_number - state.round)
    kept, beyond = kept[: stream.prompts_per_step], kept[stream.prompts_per_step :]
    carried = tuple(replace(item, carried=True) for item in beyond)
    batch_metrics = {}
    if parts.part_weights:
        kept, batch_metrics["critic/advantages/batch_std"] = batch_normalized(kept, parts.advantage)
    kept, rule_metrics = parts.hooks.weighted(kept, parts.advantage, step)

    metrics = _metrics(parts, rollouts, Advantages.joined(advantages)) | batch_metrics | rule_metrics
    metrics |= parts.anchor_use.metrics(rollouts, counts)
    if (plan := parts.plan_at(step)).allocation != "even":
        metrics |= allocation_metrics(rollouts, targets, plan.first_samples)
    metrics |= {f"ramp/{key}": value for key, value in parts.hooks.scheduled(step).items()}
    metrics |= stream.observe(rollouts, step, quarantine.prompt_ids)
    metrics |= engine_metrics(parts.engine.counts() - counts_before)
    metrics |= {name: value - reward_counts_before.get(name, 0) for name, value in parts.reward_counts().items()}
    metrics |= {"mars/rounds": round_number - state.round, "mars/prompts_sampled": len(rollouts)}
    metrics |= {"mars/prompts_kept": len(kept), "mars/prompts_carried": len(carried)}
    snapshot = parts.hooks.snapshot(stream.state(round_number))
    after = SamplingState(round_number, carried, quarantine, state.version, hooks=snapshot, surplus=surplus)
    return Sampled(rollouts, kept, after, metrics)


def _warn_of_unusable(rollouts: Sequence[PromptRollouts], num_carried: int, step: int, num_rounds: int) -> None:
    """Warn if a step has neither rollouts nor carried prompts, or if all multi rollouts of its rounds failed."""
    reasons = [rollout.reward.failed for item in rollouts for rollout in item.multi.rollouts]
    if not rollouts and not num_carried:
        logger.warning("step %d samples nothing: no prompt of its %d rounds can be read", step, num_rounds)
    elif reasons and None not in reasons:
        logger.warning(
            "step %d: all %d responses to multi prompts failed, so nothing is learnt from them; the first: %s",
            step, len(reasons), reasons[0],
        )  # fmt: skip


def _probed(parts: StepParts, stream: PromptRounds, state: SamplingState, step: int, timer: StepTimer) -> Quarantine:
    """Sample the stream's probes, and show it the rollouts. Nothing is trained on them."""
    wanted = stream.probes(step, state.round)
    probes = [prompt for prompt in wanted if prompt.prompt_id not in state.quarantine.prompt_ids]
    if not probes:
        return state.quarantine
    with timer.stage("probe"):
        # Without shapings, because a shaping may need extra requests.
        probing = replace(parts, plan=parts.plan.of_probes(), hooks=replace(parts.hooks, shaping=()))
        scored = scored_rollouts(probing, probes, step, StepTimer())
    quarantine = parts.bad_samples.tried(state.quarantine, probes, scored.unreadable, step)
    stream.observe(scored.rollouts, step, quarantine.prompt_ids)
    return quarantine


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
