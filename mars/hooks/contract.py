"""The hooks of a step: what a user's class must have (docs/extend.md builds one of each).

A hook has no random generator of its own. What it draws depends on (run.seed, step or round, prompt_id, its name), so
that a resumed run draws the same. What it keeps between steps goes through `state` and `restore`, as JSON.

A shaping, an advantage rule or requests may have one more attribute, `ramps: tuple[str, ...]`: the names of settings
that it reads anew in each call. Of the settings that a Python file of hooks has, only those that one of its hooks names
in this way may change during a run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from mars.algorithms.advantages import Advantages
from mars.algorithms.scoring import ScoringSpec
from mars.errors import ConfigError
from mars.types import Prompt, PromptRollouts

_TAG = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Signal:
    """One number for each response, which the trainer computes for a shaping.
    This is not the role "signal" of an extra request: the responses here may be trained on.

    spec: what it computes; `spec.name` is the signal's name. tag: only the tokens of the text in the last
    <tag>...</tag> of a response count; None: all tokens do. Raises ConfigError if `tag` is not the name of a tag.
    """

    spec: ScoringSpec
    tag: str | None = None

    def __post_init__(self) -> None:
        if self.tag is not None and not (isinstance(self.tag, str) and _TAG.fullmatch(self.tag)):
            do = 'give its name alone, such as "answer", of letters, digits, "_" and "-", or None'
            raise ConfigError(f"recipe.shaping: tag of a signal cannot be used; got {self.tag!r}; {do}")


@dataclass(frozen=True)
class StepFacts:
    """What a hook knows about the step in which it is called.

    step: its number, from 1. progress: the share of the run's planned steps that are done: 0 in step 1, always below 1.
    settings: the `Settings` of the hook's file; None if the file declares none.
    seed: run.seed.
    signals: the values of the signals (`Signal`) that a shaping asks for: name -> one number for each amount that the
        shaping gives, in the same order.
    """

    step: int
    progress: float
    settings: Any
    seed: int
    signals: Mapping[str, Sequence[float]] = field(default_factory=dict)


class GroupShaping(Protocol):
    """An amount that is added to the score of each response of a prompt, such as a bonus for the shortest right one.

    part: its name among the parts of the reward, and in metrics (`reward/<part>/mean`). on: with "multi", only
    multi responses and guests get it, and anchors get 0; with "all", anchors get it too. A shaping is a pure function
    of its arguments.

    A term that depends on one response alone should have on="all": the rewards of multi responses and anchors are
    compared with each other, so they must have the same terms. A term that compares a response with its group should
    have on="multi".

    A shaping may have one more attribute, `signals: tuple[Signal, ...]`. Then the trainer computes these signals for
    the shaping's responses in further forwards, before any shaping of the step is called. A signal is NaN for a failed
    rollout. A signal that is a mean is also NaN for a response without tokens that count (`Signal.tag`).
    """

    part: str
    on: Literal["multi", "all"]

    def __call__(self, item: PromptRollouts, facts: StepFacts) -> Sequence[float]:
        """One amount for each rollout of `item.multi_groups`: the multi responses, then the guests. With on="all", then
        one for each rollout of the anchor groups, in order.

        Failed rollouts need an amount too; it is not used."""
        ...


class AdvantageRule(Protocol):
    """Changes the advantages and weights of the prompts that a step trains on. Called once a step."""

    def __call__(self, base: Advantages, kept: Sequence[PromptRollouts], facts: StepFacts) -> Advantages:
        """`base` with other values or weights.

        base.values and base.weights have one number for each rollout in `PromptRollouts.trained` of the `kept` prompts,
        prompt after prompt: first its valid multi rollouts, then its valid guests.
        base.mean and base.std have one entry for each prompt. Weights multiply the loss of a response."""
        ...

    def state(self) -> Mapping[str, Any]:
        """What the rule knows of earlier steps, as JSON: keys are text. {} if it keeps nothing."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`, and forget what the rule has seen since."""
        ...


def _no_rows(file: str) -> tuple[Prompt, ...]:
    raise ConfigError(f"recipe.sampler: no rows can be read here; got {file}")


@dataclass(frozen=True)
class SamplerSetup:
    """What a sampler chooses from. sets: the prompts of each training file. weights, shuffle: of the section `data`.

    seed: run.seed. A draw may depend only on it, on the round or step, and on what was observed.
    read_rows: reads a file of rows that another program has written during the run, and checks them like those of the
        training files. Returns its prompts, () if there are none; from then on they may be chosen (docs/extend.md).
    """

    sets: tuple[tuple[Prompt, ...], ...]
    weights: tuple[float, ...] | None
    shuffle: bool
    prompts_per_step: int
    samples_per_prompt: int
    seed: int
    read_rows: Callable[[str], tuple[Prompt, ...]] = _no_rows


class PromptSampler(Protocol):
    """Chooses the prompts of each round by what was observed of earlier rounds. Made with (setup), or (setup, settings)
    if its file declares `Settings`."""

    def batch(self, round: int, left_out: frozenset[str]) -> Sequence[Prompt]:
        """The prompts of a round, all different: about `setup.prompts_per_step`; or more, so that enough are left
        if `algorithm.selection` drops some.

        left_out: ids of prompts that could not be read so far. They are not sampled even if they are chosen.
        Rounds are numbered from 0 and asked for once, in order."""
        ...

    def probes(self, step: int) -> Sequence[Prompt]:
        """Prompts to sample now for `observe` alone, without anchors; they are not trained on. () for none."""
        ...

    def observe(self, rollouts: Sequence[PromptRollouts], step: int) -> Mapping[str, float]:
        """Learn from rollouts of a step. If the step has probes, this is called first with the rollouts of the probes.
        At the end of the step's sampling it is called with the rollouts of its rounds: of all prompts, kept or not.
        Returns metrics; those of the step's last call are logged as `sampler/<name>`."""
        ...

    def state(self) -> Mapping[str, Any]:
        """What the sampler knows, as JSON: keys are text."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state`, and forget what the sampler has seen since."""
        ...


SAMPLER_MEMBERS = {"batch": 2, "probes": 1, "observe": 2, "state": 0, "restore": 1}
SHAPING_MEMBERS = {"part": None, "on": None, "__call__": 2}
RULE_MEMBERS = {"__call__": 3, "state": 0, "restore": 1}
"""What `make_hook` checks: method -> number of arguments, attribute -> None."""
