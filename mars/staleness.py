"""How old responses are: the version of the weights that train on a response minus the version that sampled it.

The engine marks each response with the version of its weights (`Completion.version`). The trainer reports the version
with which an update began (`UpdateStats.version`). Versions are counted from the start of the trainer's processes, so
the versions in the state of a resumed run are renumbered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

from mars.errors import WorkerError
from mars.step_parts import SamplingState
from mars.types import PromptRollouts, Rollout, RolloutGroup, SampledPrompt


def staleness(item: SampledPrompt, version: int) -> list[int]:
    """How many versions old the responses to a prompt are when the weights of `version` train on them.

    Responses of weight 0 are left out, and responses whose text was given by a recipe.

    Example: sampled with version 3, trained on by version 4: 1.
    """
    found = []
    for one in (item, *item.own_groups):
        sampled = (group.is_sampled for group in one.rollouts.multi_groups for _ in group.valid)
        rows = zip(one.rollouts.trained, one.weights, sampled, strict=True)
        found += [version - rollout.completion.version for rollout, weight, is_sampled in rows if weight and is_sampled]
    return found


def within_bound(items: Sequence[SampledPrompt], version: int, bound: int) -> tuple[SampledPrompt, ...]:
    """The prompts of `items` with no response more than `bound` versions old.

    Responses that are not trained on do not count.
    """
    return tuple(item for item in items if max(staleness(item, version), default=0) <= bound)


def without_too_old(kept: Sequence[SampledPrompt], version: int, bound: int) -> tuple[SampledPrompt, ...]:
    """`kept` without carried prompts that are older than `bound`. version: of the weights that train on them.

    Raises WorkerError if other prompts are older: they were just sampled, so an engine has old weights.
    """
    for item in kept:
        if not item.carried and not within_bound([item], version, bound):
            raise WorkerError(
                f"responses to prompt {item.rollouts.prompt.prompt_id} are {max(staleness(item, version))} versions "
                f"older than the weights that would train on them, and rollout.max_staleness is {bound}: an engine did "
                "not get its weights; nothing was trained on them; resume the run, and please report it"
            )
    return within_bound(kept, version, bound)


def staleness_metrics(kept: Sequence[SampledPrompt], version: int) -> dict[str, float]:
    """Mean and largest staleness of all responses of `kept`; {} if there are none.

    version: of the weights before the first update of the step that trains on `kept`.
    """
    found = [age for item in kept for age in staleness(item, version)]
    return {"rollout/staleness_mean": fmean(found), "rollout/staleness_max": float(max(found))} if found else {}


def renumbered(state: SamplingState, version: int) -> SamplingState:
    """The same state, renumbered so that the engine's weights have version `version`. Each response's staleness
    stays."""
    shift = version - state.version
    # Kept prompts and the list of all rollouts share objects. Each object is renumbered once, so that they still do.
    done: dict[int, PromptRollouts] = {}

    def rollouts(item: PromptRollouts) -> PromptRollouts:
        if id(item) not in done:
            some = (item.anchors, item.extras, item.pool_anchors)
            anchors, extras, pool = (tuple(_shifted(group, shift) for group in groups) for groups in some)
            multi, other_pool = _shifted(item.multi, shift), None if item.other_pool is None else pool
            done[id(item)] = replace(item, multi=multi, anchors=anchors, extras=extras, other_pool=other_pool)
        return done[id(item)]

    return _mapped(state, shift, rollouts) if shift else state


def _mapped(state: SamplingState, shift: int, rollouts: Callable[[PromptRollouts], PromptRollouts]) -> SamplingState:
    def prompts(items: Sequence[SampledPrompt]) -> tuple[SampledPrompt, ...]:
        return tuple(
            replace(item, rollouts=rollouts(item.rollouts), own_groups=prompts(item.own_groups)) for item in items
        )

    ahead = state.ahead
    if ahead is not None:
        after = _mapped(ahead.state, shift, rollouts)
        ahead = replace(ahead, rollouts=tuple(map(rollouts, ahead.rollouts)), kept=prompts(ahead.kept), state=after)
    return replace(state, carried=prompts(state.carried), version=state.version + shift, ahead=ahead)


def _shifted(group: RolloutGroup, shift: int) -> RolloutGroup:
    def shifted(rollout: Rollout) -> Rollout:
        completion = rollout.completion
        return replace(rollout, completion=replace(completion, version=completion.version + shift))

    return replace(group, rollouts=tuple(map(shifted, group.rollouts)))
