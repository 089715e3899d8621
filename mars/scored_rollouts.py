"""The rollouts of prompts with their rewards: requests, the engine's responses, scores, penalties and shapings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain

from mars.algorithms.guided_groups import with_candidates
from mars.algorithms.penalties import with_kl_penalty, with_overlong_penalty
from mars.algorithms.scoring import KL_TO_REFERENCE
from mars.rollout.collect import ScoredStream, collect, score_stream, with_following
from mars.rollout.engine import ended
from mars.rollout.extras import PlannedRequests
from mars.signals import measured
from mars.step_parts import StepParts
from mars.tracking.timer import StepTimer
from mars.types import Prompt, PromptRollouts


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
    if parts.anchor_use.guided:
        rollouts = with_candidates(rollouts)  # before the KL, which is that of the multi prompt for a guest
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
