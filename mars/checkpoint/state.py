"""What a run knows between two steps besides the trainer's tensors, as one JSON file.

The order of the data depends on the seed and the step, and every request has its own seed, so neither has a state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated

from mars.errors import CheckpointError
from mars.quarantine import Quarantine
from mars.sampling import SamplingState
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


@validated(frozen=True, config=ConfigDict(extra="forbid"))
class _Carried:
    prompt_id: str
    multi: RolloutGroup
    anchors: tuple[RolloutGroup, ...]
    advantages: tuple[float, ...]
    weights: tuple[float, ...]


@validated(frozen=True, config=ConfigDict(extra="forbid", ser_json_inf_nan="constants"))
class _Stored:
    step: int
    round: int
    carried: tuple[_Carried, ...]
    quarantine: Quarantine
    metrics: Mapping[str, int | float]
    logged: bool


_STORED = TypeAdapter(_Stored)


def state_to_json(state: RunState) -> bytes:
    """Floats come back exactly. Prompts are stored by their ids."""
    carried = tuple(
        _Carried(
            item.rollouts.prompt.prompt_id, item.rollouts.multi, item.rollouts.anchors, item.advantages, item.weights
        )
        for item in state.sampling.carried
    )
    metrics = {name: value if type(value) is int else float(value) for name, value in state.metrics.items()}
    sampling = state.sampling
    return _STORED.dump_json(_Stored(state.step, sampling.round, carried, sampling.quarantine, metrics, state.logged))


def state_from_json(content: bytes, prompts: Mapping[str, Prompt]) -> RunState:
    """prompts: of the training set, by their ids. Raises CheckpointError if one is missing or the JSON is no state."""
    try:
        stored = _STORED.validate_json(content)
    except ValidationError as error:
        raise CheckpointError(f"{STATE_FILE}: not the state of a run: {error.errors()[0]['msg']}") from error
    unknown = [item.prompt_id for item in stored.carried if item.prompt_id not in prompts]
    if unknown:
        raise CheckpointError(
            f"{STATE_FILE}: {len(unknown)} of {len(stored.carried)} carried prompts are not in the training set "
            f"(first: {unknown[0]}); resume with the data that the run was started with"
        )
    carried = tuple(
        SampledPrompt(
            PromptRollouts(prompts[item.prompt_id], item.multi, item.anchors),
            item.advantages,
            item.weights,
            carried=True,
        )
        for item in stored.carried
    )
    sampling = SamplingState(stored.round, carried, stored.quarantine)
    return RunState(stored.step, sampling, stored.metrics, stored.logged)
