"""What a run knows between two steps besides the trainer's tensors, as one JSON file.

The order of the data depends on the seed and the step, and every request has its own seed, so neither has a state.
Hooks have one: the text of `SamplingState.hooks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated

from mars.errors import CheckpointError, UnreadableCheckpoint
from mars.quarantine import Quarantine
from mars.sampling import Sampled, SamplingState
from mars.staleness import renumbered
from mars.types import Prompt, PromptRollouts, RolloutGroup, SampledPrompt

STATE_FILE = "state.json"


@dataclass(frozen=True)
class RunState:
    """step: the last one that is finished, 0 before the first. sampling: what the next step starts from.

    metrics: of `step`. logged: False while its evaluation and its row of metrics.jsonl are still to come.
    """

    step: int
    sampling: SamplingState
    metrics: Mapping[str, int | float]
    logged: bool


START = RunState(step=0, sampling=SamplingState(round=0, carried=()), metrics={}, logged=True)


# Every class below has it, and hands it on to the plain classes in it: without it, NaN would be written as null.
_AS_JSON = ConfigDict(extra="forbid", ser_json_inf_nan="constants")


@validated(frozen=True, config=_AS_JSON)
class _Rollouts:
    prompt_id: str
    multi: RolloutGroup
    anchors: tuple[RolloutGroup, ...]
    extras: tuple[RolloutGroup, ...] = field(default=(), kw_only=True)


@validated(frozen=True, config=_AS_JSON)
class _Own:
    """Of one of a prompt's `own_groups`."""

    advantages: tuple[float, ...]
    weights: tuple[float, ...]


@validated(frozen=True, config=_AS_JSON)
class _Carried(_Rollouts):
    advantages: tuple[float, ...]
    weights: tuple[float, ...]
    own_groups: tuple[_Own, ...] = field(default=(), kw_only=True)


@validated(frozen=True, config=_AS_JSON)
class _Kept:
    """A prompt whose rollouts are stored elsewhere: among those sampled ahead, or if carried, among the carried."""

    prompt_id: str
    carried: bool
    advantages: tuple[float, ...]
    weights: tuple[float, ...]
    own_groups: tuple[_Own, ...] = field(default=(), kw_only=True)


@validated(frozen=True, config=_AS_JSON)
class _Ahead:
    """`kept`, `carried` and the rest as in `Sampled` and its state."""

    rollouts: tuple[_Rollouts, ...]
    kept: tuple[_Kept, ...]
    carried: tuple[_Kept, ...]
    round: int
    quarantine: Quarantine
    metrics: Mapping[str, int | float]
    hooks: str | None = None


@validated(frozen=True, config=_AS_JSON)
class StoredState:
    """A `RunState` as it is stored."""

    step: int
    round: int
    carried: tuple[_Carried, ...]
    quarantine: Quarantine
    metrics: Mapping[str, int | float]
    logged: bool
    ahead: _Ahead | None = None
    hooks: str | None = None


_STORED = TypeAdapter(StoredState)


def state_to_json(state: RunState) -> bytes:
    """Floats come back exactly, also NaN and inf. Prompts are stored by their ids.

    Versions of weights are renumbered, so that the engine's is 0: the process that loads the state counts anew.
    """
    sampling = renumbered(state.sampling, 0)
    carried = tuple(map(_carried_to_stored, sampling.carried))
    stored = StoredState(
        state.step,
        sampling.round,
        carried,
        sampling.quarantine,
        _plain(state.metrics),
        state.logged,
        None if sampling.ahead is None else _ahead_to_stored(sampling.ahead),
        sampling.hooks,
    )
    return _STORED.dump_json(stored)


def _carried_to_stored(item: SampledPrompt) -> _Carried:
    rollouts, own = item.rollouts, _own(item)
    groups = {"multi": rollouts.multi, "anchors": rollouts.anchors, "extras": rollouts.extras}
    return _Carried(
        rollouts.prompt.prompt_id, **groups, advantages=item.advantages, weights=item.weights, own_groups=own
    )


def _own(item: SampledPrompt) -> tuple[_Own, ...]:
    return tuple(_Own(own.advantages, own.weights) for own in item.own_groups)


def _sampled(rollouts: PromptRollouts, stored: _Carried | _Kept, carried: bool) -> SampledPrompt:
    """Its groups of their own are among the rollouts."""
    pairs = zip(rollouts.own_groups, stored.own_groups, strict=True)
    own = tuple(
        SampledPrompt(PromptRollouts(rollouts.prompt, group, ()), one.advantages, one.weights) for group, one in pairs
    )
    return SampledPrompt(rollouts, stored.advantages, stored.weights, carried, own)


def _ahead_to_stored(ahead: Sampled) -> _Ahead:
    def kept(items: Sequence[SampledPrompt]) -> tuple[_Kept, ...]:
        return tuple(
            _Kept(item.rollouts.prompt.prompt_id, item.carried, item.advantages, item.weights, own_groups=_own(item))
            for item in items
        )

    return _Ahead(
        tuple(
            _Rollouts(item.prompt.prompt_id, item.multi, item.anchors, extras=item.extras) for item in ahead.rollouts
        ),
        kept(ahead.kept),
        kept(ahead.state.carried),
        ahead.state.round,
        ahead.state.quarantine,
        _plain(ahead.metrics),
        ahead.state.hooks,
    )


def _plain(metrics: Mapping[str, int | float]) -> dict[str, int | float]:
    return {name: value if type(value) is int else float(value) for name, value in metrics.items()}


def stored_state(content: bytes) -> StoredState:
    """Raises UnreadableCheckpoint if it is no state of a run."""
    try:
        return _STORED.validate_json(content)
    except ValidationError as error:
        raise UnreadableCheckpoint(f"{STATE_FILE}: not the state of a run: {error.errors()[0]['msg']}") from error


def state_from_json(content: bytes, prompts: Mapping[str, Prompt]) -> RunState:
    """`with_prompts` of `stored_state`."""
    return with_prompts(stored_state(content), prompts)


def with_prompts(stored: StoredState, prompts: Mapping[str, Prompt]) -> RunState:
    """prompts: of the training set, by their ids. Raises CheckpointError if one is missing."""
    sampled = [*stored.carried, *(stored.ahead.rollouts if stored.ahead is not None else ())]
    unknown = [item.prompt_id for item in sampled if item.prompt_id not in prompts]
    if unknown:
        raise CheckpointError(
            f"{STATE_FILE}: {len(unknown)} of {len(sampled)} sampled prompts are not in the training set "
            f"(first: {unknown[0]}); resume with the data that the run was started with"
        )
    carried = tuple(_sampled(_rollouts(item, prompts), item, carried=True) for item in stored.carried)
    ahead = None if stored.ahead is None else _ahead_from_stored(stored.ahead, carried, prompts)
    sampling = SamplingState(stored.round, carried, stored.quarantine, ahead=ahead, hooks=stored.hooks)
    return RunState(stored.step, sampling, stored.metrics, stored.logged)


def _rollouts(item: _Rollouts, prompts: Mapping[str, Prompt]) -> PromptRollouts:
    return PromptRollouts(prompts[item.prompt_id], item.multi, item.anchors, item.extras)


def _ahead_from_stored(stored: _Ahead, carried: Sequence[SampledPrompt], prompts: Mapping[str, Prompt]) -> Sampled:
    """carried: into the sampling."""
    rollouts = tuple(_rollouts(item, prompts) for item in stored.rollouts)
    before = {item.rollouts.prompt.prompt_id: item.rollouts for item in carried}
    fresh = {item.prompt.prompt_id: item for item in rollouts}

    def kept(item: _Kept, found: Mapping[str, PromptRollouts]) -> SampledPrompt:
        return _sampled(found[item.prompt_id], item, item.carried)

    trained = tuple(kept(item, before if item.carried else fresh) for item in stored.kept)
    beyond = tuple(kept(item, fresh) for item in stored.carried)
    state = SamplingState(stored.round, beyond, stored.quarantine, hooks=stored.hooks)
    return Sampled(rollouts, trained, state, stored.metrics)
