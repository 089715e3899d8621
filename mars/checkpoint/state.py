"""The state of a run between two steps, except the trainer's tensors, as lines of JSON.

    step, metrics, ...            one line
    rollouts of a prompt          a line for each: of carried prompts, then of those sampled ahead
    advantages of a prompt        a line for each: of carried prompts; then, if the next step is sampled ahead, of those
                                  that it trains on and of those that it leaves to the step after it

Writing a line blocks the other threads of the process, so a line has one prompt at most. `round` is enough
to restore the order of the data, which depends only on the seed and the number of the round. Requests have no
random state to store, because each has its own seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated

from mars.checkpoint.packed import PackedTokens, pack, unpack
from mars.errors import CheckpointError, UnreadableCheckpoint
from mars.image_transform import TransformCall, TransformedImage
from mars.quarantine import Quarantine
from mars.step_parts import Sampled, SamplingState
from mars.types import ImageRef, Prompt, PromptRollouts, RolloutGroup, SampledPrompt

STATE_FILE = "state.json"


@dataclass(frozen=True)
class RunState:
    """step: the last finished step, 0 before the first. sampling: what the next step starts from.

    metrics: of `step`. logged: False until the step is evaluated and its row of metrics.jsonl is written.
    """

    step: int
    sampling: SamplingState
    metrics: Mapping[str, int | float]
    logged: bool


START = RunState(step=0, sampling=SamplingState(round=0, carried=()), metrics={}, logged=True)


# For all pydantic classes below, and the plain dataclasses in their fields. Without it, NaN would become null.
_AS_JSON = ConfigDict(extra="forbid", ser_json_inf_nan="constants")

_Transforms = tuple[tuple[tuple[TransformCall, ...], ...], ...]
"""Of each image of each group."""


@validated(frozen=True, config=_AS_JSON)
class _Groups:
    """The rollouts of a prompt. Their completions have no tokens; `tokens` has them, in the order of the groups.

    Images are written as `ImageRef`, without transforms. transforms: of the images, in the order of the groups; () and
    not written if no image of the prompt has any.
    """

    prompt_id: str
    multi: RolloutGroup
    anchors: tuple[RolloutGroup, ...]
    extras: tuple[RolloutGroup, ...]
    tokens: PackedTokens
    transforms: _Transforms = ()
    other_pool: tuple[RolloutGroup, ...] | None = None


@validated(frozen=True, config=_AS_JSON)
class _Own:
    """Advantages and weights of one of a prompt's `own_groups`."""

    advantages: tuple[float, ...]
    weights: tuple[float, ...]


@validated(frozen=True, config=_AS_JSON)
class _Kept:
    """The advantages of a prompt. Its rollouts are in a line of the prompts sampled ahead if `carried` is False or if
    the step sampled ahead carries the prompt on, else in a line of the carried prompts."""

    prompt_id: str
    carried: bool
    advantages: tuple[float, ...]
    weights: tuple[float, ...]
    own_groups: tuple[_Own, ...]


@validated(frozen=True, config=_AS_JSON)
class _Ahead:
    """`Sampled` without its prompts. rollouts, kept, carried: lengths of its `rollouts`, `kept` and `state.carried`."""

    rollouts: int
    kept: int
    carried: int
    round: int
    quarantine: Quarantine
    metrics: Mapping[str, int | float]
    hooks: str | None
    surplus: int = 0


@validated(frozen=True, config=_AS_JSON)
class _Head:
    """A `RunState` without its prompts. carried: number of carried prompts."""

    step: int
    round: int
    carried: int
    quarantine: Quarantine
    metrics: Mapping[str, int | float]
    logged: bool
    hooks: str | None
    ahead: _Ahead | None
    surplus: int = 0


@dataclass(frozen=True)
class StoredState:
    """A stored `RunState`: its first line (head), the lines of rollouts, and those of advantages (kept), in order."""

    head: _Head
    rollouts: Sequence[_Groups]
    kept: Sequence[_Kept]

    @property
    def hooks(self) -> list[str]:
        """The snapshots of the hooks: after the step, and after the sampling ahead."""
        return [found.hooks for found in (self.head, self.head.ahead) if found is not None and found.hooks is not None]


_HEAD, _GROUPS, _KEPT = TypeAdapter(_Head), TypeAdapter(_Groups), TypeAdapter(_Kept)


def state_lines(state: RunState) -> Iterator[bytes]:
    """The state as lines, with line breaks. Floats are exact, NaN and inf included. Prompts are stored by their ids.

    Versions of weights are shifted so that the engine's is 0, because the process that loads the state counts from 0.
    """
    sampling, ahead = state.sampling, state.sampling.ahead
    of_ahead = None if ahead is None else _head_of(ahead)
    numbers, metrics = (state.step, sampling.round, len(sampling.carried)), _plain(state.metrics)
    head = _Head(
        *numbers, sampling.quarantine, metrics, state.logged, sampling.hooks, of_ahead, surplus=sampling.surplus
    )
    yield _HEAD.dump_json(head) + b"\n"
    for item in sampling.carried:
        yield _line(_packed(item.rollouts, sampling.version))
    for rollouts in ahead.rollouts if ahead is not None else ():
        yield _line(_packed(rollouts, sampling.version))
    for item in (*sampling.carried, *((*ahead.kept, *ahead.state.carried) if ahead is not None else ())):
        own = tuple(_Own(group.advantages, group.weights) for group in item.own_groups)
        kept = _Kept(item.rollouts.prompt.prompt_id, item.carried, item.advantages, item.weights, own)
        yield _KEPT.dump_json(kept) + b"\n"


def _line(item: _Groups) -> bytes:
    return _GROUPS.dump_json(item, exclude=None if item.transforms else {"transforms"}) + b"\n"


def _head_of(ahead: Sampled) -> _Ahead:
    state = ahead.state
    numbers = len(ahead.rollouts), len(ahead.kept), len(state.carried)
    return _Ahead(*numbers, state.round, state.quarantine, _plain(ahead.metrics), state.hooks, state.surplus)


def _plain(metrics: Mapping[str, int | float]) -> dict[str, int | float]:
    return {name: value if type(value) is int else float(value) for name, value in metrics.items()}


def _packed(item: PromptRollouts, version: int) -> _Groups:
    """version: the version that becomes 0."""
    groups = _groups_of(item)
    tokens = pack([rollout.completion for group in groups for rollout in group.rollouts])
    transforms = tuple(tuple(_transforms(image) for image in group.request.images) for group in groups)

    def plain(group: RolloutGroup) -> RolloutGroup:
        return replace(_with_images(group, tuple(map(_untransformed, group.request.images))), rollouts=tuple(
            replace(each, completion=replace(
                each.completion, token_ids=(), logprobs=(), version=each.completion.version - version
            ))
            for each in group.rollouts
        ))  # fmt: skip

    multi, anchors, extras = plain(item.multi), tuple(map(plain, item.anchors)), tuple(map(plain, item.extras))
    pool = item.other_pool and tuple(map(plain, item.other_pool))
    transforms = transforms if any(calls for images in transforms for calls in images) else ()
    return _Groups(item.prompt.prompt_id, multi, anchors, extras, tokens, transforms, pool)


def _groups_of(item: PromptRollouts | _Groups) -> tuple[RolloutGroup, ...]:
    return (item.multi, *item.anchors, *item.extras, *(item.other_pool or ()))


def _transforms(image: ImageRef) -> tuple[TransformCall, ...]:
    return image.transforms if isinstance(image, TransformedImage) else ()


def _untransformed(image: ImageRef) -> ImageRef:
    return image.untransformed if isinstance(image, TransformedImage) else image


def _transformed(image: ImageRef, calls: tuple[TransformCall, ...]) -> ImageRef:
    return TransformedImage(**vars(image), transforms=calls) if calls else image


def _with_images(group: RolloutGroup, images: tuple[ImageRef, ...]) -> RolloutGroup:
    return group if images == group.request.images else replace(group, request=replace(group.request, images=images))


def stored_state(lines: Iterable[bytes]) -> StoredState:
    """Read the lines. Raises UnreadableCheckpoint if they are not the state of a run."""
    lines = iter(lines)
    try:
        head = _HEAD.validate_json(next(lines, b""))
        ahead = head.ahead
        num_rollouts = head.carried + (ahead.rollouts if ahead is not None else 0)
        num_kept = head.carried + (ahead.kept + ahead.carried if ahead is not None else 0)
        rollouts = [_whole(_GROUPS.validate_json(line)) for line in islice(lines, num_rollouts)]
        kept = [_KEPT.validate_json(line) for line in lines]
        if (len(rollouts), len(kept)) != (num_rollouts, num_kept):
            raise ValueError(
                f"{len(rollouts)} and {len(kept)} lines of prompts instead of {num_rollouts} and {num_kept}"
            )
    except ValueError as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise UnreadableCheckpoint(f"{STATE_FILE}: not the state of a run: {reason}") from error
    return StoredState(head, rollouts, kept)


def _whole(item: _Groups) -> _Groups:
    """Give each response its tokens and each image its transforms. Raises ValueError if one is missing or left over."""
    tokens, groups = iter(unpack(item.tokens)), _groups_of(item)
    transforms = item.transforms or tuple(((),) * len(group.request.images) for group in groups)

    def whole(group: RolloutGroup, calls: tuple[tuple[TransformCall, ...], ...]) -> RolloutGroup:
        pairs = zip(group.rollouts, islice(tokens, len(group.rollouts)), strict=True)
        images = tuple(_transformed(*pair) for pair in zip(group.request.images, calls, strict=True))
        return replace(_with_images(group, images), rollouts=tuple(
            replace(each, completion=replace(each.completion, token_ids=token_ids, logprobs=logprobs))
            for each, (token_ids, logprobs) in pairs
        ))  # fmt: skip

    multi, *others = (whole(group, calls) for group, calls in zip(groups, transforms, strict=True))
    if next(tokens, None) is not None:
        raise ValueError("more responses than rollouts")
    left = iter(others)
    anchors, extras = (tuple(islice(left, len(some))) for some in (item.anchors, item.extras))
    return replace(item, multi=multi, anchors=anchors, extras=extras, other_pool=item.other_pool and tuple(left))


def with_prompts(stored: StoredState, prompts: Mapping[str, Prompt]) -> RunState:
    """The state with its prompts. prompts: the training set by ids. Raises CheckpointError if a prompt is missing."""
    unknown = [item.prompt_id for item in stored.rollouts if item.prompt_id not in prompts]
    if unknown:
        raise CheckpointError(
            f"{STATE_FILE}: {len(unknown)} of {len(stored.rollouts)} sampled prompts are not in the training set "
            f"(first: {unknown[0]}); resume with the data that the run was started with"
        )
    head, kept = stored.head, iter(stored.kept)
    some = stored.rollouts
    rollouts = [PromptRollouts(prompts[i.prompt_id], i.multi, i.anchors, i.extras, i.other_pool) for i in some]
    before = {item.prompt.prompt_id: item for item in rollouts[: head.carried]}
    carried = _sampled(islice(kept, head.carried), before, {})
    ahead = None
    if head.ahead is not None:
        of_ahead = tuple(rollouts[head.carried :])
        fresh = {item.prompt.prompt_id: item for item in of_ahead}
        trained = _sampled(islice(kept, head.ahead.kept), before, fresh)
        # The step ahead carries on only prompts that it has sampled. So their rollouts are in `fresh`, although
        # `carried` is True.
        beyond = _sampled(kept, fresh, fresh)
        after = head.ahead
        state = SamplingState(after.round, beyond, after.quarantine, hooks=after.hooks, surplus=after.surplus)
        ahead = Sampled(of_ahead, trained, state, head.ahead.metrics)
    sampling = SamplingState(head.round, carried, head.quarantine, ahead=ahead, hooks=head.hooks, surplus=head.surplus)
    return RunState(head.step, sampling, head.metrics, head.logged)


def _sampled(
    items: Iterable[_Kept], carried: Mapping[str, PromptRollouts], fresh: Mapping[str, PromptRollouts]
) -> tuple[SampledPrompt, ...]:
    """carried, fresh: prompt id -> rollouts. Carried prompts are looked up in `carried`, all others in `fresh`."""

    def sampled(item: _Kept, rollouts: PromptRollouts) -> SampledPrompt:
        own = tuple(
            SampledPrompt(PromptRollouts(rollouts.prompt, group, ()), one.advantages, one.weights)
            for group, one in zip(rollouts.own_groups, item.own_groups, strict=True)
        )
        return SampledPrompt(rollouts, item.advantages, item.weights, item.carried, own)

    return tuple(sampled(item, (carried if item.carried else fresh)[item.prompt_id]) for item in items)
