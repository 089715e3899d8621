"""From prompts to scored rollouts: makes the requests, samples and scores the responses, and applies penalties and
shapings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

from mars.algorithms.allocation import is_target, second_half, seeded_order
from mars.algorithms.guided_groups import with_candidates
from mars.algorithms.penalties import with_kl_penalty, with_overlong_penalty
from mars.algorithms.scoring import KL_TO_REFERENCE
from mars.rollout.collect import ScoredStream, collect, score_stream, with_following, with_further
from mars.rollout.engine import ended
from mars.rollout.extras import PlannedRequests
from mars.rollout.plan import RolloutPlan
from mars.signals import measured
from mars.step_parts import StepParts
from mars.tracking.timer import StepTimer
from mars.types import Prompt, PromptRollouts


@dataclass(frozen=True)
class ScoredRound:
    """A round that has been sampled and scored.

    rollouts: one item for each prompt that could be read. unreadable: prompt id -> why the prompt could not be read.
    targets: ids of the prompts that `anchor.allocation` serves first when it distributes the second half of the multi
        rollouts; none with `even`.
    """

    rollouts: list[PromptRollouts]
    unreadable: Mapping[str, str]
    targets: frozenset[str] = frozenset()


def scored_rollouts(parts: StepParts, prompts: Sequence[Prompt], step: int, timer: StepTimer) -> ScoredRound:
    """The rollouts of each prompt with their rewards, penalties included.

    One engine call generates all views of all prompts, so that multi and mono views share the engine's caches. A second
    call follows if `anchor.allocation` distributes the second half of the multi rollouts by the results of the first
    half. Another call follows if a recipe has extra requests that depend on the scored responses.
    """
    plan, failed_scores = parts.plan_at(step), parts.hooks.failed_scores
    planned = plan.planned(prompts, step)
    scored = _answers(parts, prompts, planned, step, timer)
    sampled = ScoredRound(collect(prompts, planned.all, scored.samples, scored.unreadable), scored.unreadable)
    if plan.allocation != "even":
        sampled = _with_second_half(parts, plan, sampled, step, timer)
    rollouts, unreadable = sampled.rollouts, sampled.unreadable
    following = plan.following(rollouts, step)
    if following.all:
        scored = _answers(parts, prompts, following, step, timer)
        rollouts = with_following(rollouts, following.all, scored.samples, scored.unreadable)
        unreadable = {**unreadable, **scored.unreadable}
    if parts.overlong is not None:
        penalized = with_overlong_penalty(rollouts, parts.overlong)
        rollouts = failed_scores.noted("algorithm.overlong_factor", rollouts, penalized)
    asked, stage = parts.hooks.signals, partial(timer.stage, "signals")
    signals = measured(asked, rollouts, step, parts.scoring_batch, parts.trainer, parts.decode, stage)
    unreadable = {**unreadable, **signals.unreadable}
    rollouts = [item for item in rollouts if item.prompt.prompt_id not in signals.unreadable]
    rollouts = parts.hooks.shaped(rollouts, step, signals)
    if parts.anchor_use.guided:
        rollouts = with_candidates(rollouts)  # before the KL, which for a guest is computed with the multi prompt
    if (coefficient := parts.kl_in_reward_at(step)) > 0 and rollouts:
        batch = parts.scoring_batch(rollouts)
        with timer.stage("ref"):
            kl = parts.trainer.score_responses(batch, KL_TO_REFERENCE)
        unreadable = {**unreadable, **kl.unreadable}
        rollouts = [item for item in rollouts if item.prompt.prompt_id not in kl.unreadable]
        penalized = with_kl_penalty(rollouts, kl.readable(batch), coefficient)
        rollouts = failed_scores.noted("algorithm.kl_coefficient", rollouts, penalized)
    return ScoredRound(rollouts, unreadable, sampled.targets)


def _with_second_half(
    parts: StepParts, plan: RolloutPlan, half: ScoredRound, step: int, timer: StepTimer
) -> ScoredRound:
    """Sample the second half of the multi rollouts. The prompts that `anchor.allocation` favours (`is_target`) share
    it, up to a limit for each. The others share what is left (`second_half`)."""
    assert plan.allocation != "even"  # there is one half
    ids = [item.prompt.prompt_id for item in half.rollouts]
    targets = [is_target(item, plan.allocation) for item in half.rollouts]
    order = seeded_order(ids, plan.seed, step)
    counts = second_half(targets, order, plan.first_samples, plan.multi_samples)
    further = plan.further(half.rollouts, counts)
    scored = _answers(parts, [item.prompt for item in half.rollouts], further, step, timer)
    return ScoredRound(
        with_further(half.rollouts, further.all, scored.samples, scored.unreadable),
        {**half.unreadable, **scored.unreadable},
        frozenset(name for name, chosen in zip(ids, targets, strict=True) if chosen),
    )


def _answers(
    parts: StepParts, prompts: Sequence[Prompt], planned: PlannedRequests, step: int, timer: StepTimer
) -> ScoredStream:
    # A response is scored as soon as it is finished, while others are generated. So "gen" is the time spent waiting for
    # the engine, and "reward" is the time that scoring takes after the last response.
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
