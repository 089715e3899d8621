"""Call the hooks of a step. Several shapings or advantage rules are called in the order of their list in `recipe`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import torch

from mars.algorithms.advantages import Advantages, AdvantageSettings
from mars.algorithms.penalties import add_to_scores, groups
from mars.algorithms.pooled_rewards import PooledRewards, with_advantages
from mars.changing_settings import at_step
from mars.config.ramp_section import Ramp, ramped_settings
from mars.errors import ConfigError
from mars.hooks.contract import AdvantageRule, GroupShaping, StepFacts
from mars.hooks.failed_scores import FailedScores
from mars.hooks.requests import Extra, ExtraRequests, Injected
from mars.hooks.signals import NO_SIGNALS, Asked, SignalValues, asked_signals, shaped_groups, signals_of
from mars.plugin import UserFunction
from mars.types import Prompt, PromptRollouts, SampledPrompt
from mars.users_code import calling

Hook = TypeVar("Hook")
_NOTHING = '{"sampler": {}, "advantage": {}}'


@dataclass(frozen=True)
class Named(Generic[Hook]):
    """name: for messages and in checkpoints, such as "vl_cogito:DifficultyWeight".

    settings: an instance of the class `Settings` of the hook's file; None if the file declares none.
    """

    name: str
    hook: Hook
    settings: Any


@dataclass(frozen=True)
class StepHooks:
    """The hooks of a run, none by default. initial: the `snapshot` of a new run.

    num_steps: the planned steps of the run; None until its rows are read. No hook is called before that.
    seed: run.seed. ramps: those of the run, also in a run without hooks. guest_filter: of `anchor.guide_filter`.
    failed_scores: of this run, for shapings and penalties.
    """

    num_steps: int | None
    seed: int
    shaping: tuple[Named[GroupShaping], ...] = ()
    advantage: tuple[Named[AdvantageRule], ...] = ()
    initial: str | None = None
    requests: Named[ExtraRequests] | None = None
    ramps: tuple[Ramp, ...] = ()
    guest_filter: UserFunction | None = None
    failed_scores: FailedScores = field(default_factory=FailedScores, compare=False)

    def for_steps(self, num_steps: int) -> StepHooks:
        """The same hooks, for a run of `num_steps` planned steps."""
        return replace(self, num_steps=num_steps)

    def scheduled(self, step: int) -> dict[str, float]:
        """Key -> value in the step, of every ramp."""
        return {ramp.key: ramp.at(step) for ramp in self.ramps}

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the reward that the hooks add."""
        return tuple(named.hook.part for named in self.shaping)

    @property
    def signals(self) -> Asked:
        """What the trainer must compute for the shapings; {} for nothing."""
        return asked_signals(named.hook for named in self.shaping)

    def asked_before(self, prompt: Prompt, step: int) -> Sequence[Extra | Injected]:
        """What `ExtraRequests.before` asks of a prompt. Raises ConfigError if the call fails."""
        if (named := self.requests) is None:
            return ()
        facts = self._facts(named, step)
        with calling(f"recipe.requests: {named.name} failed in `before` on {prompt.row}"):
            return tuple(named.hook.before(prompt, facts))

    def asked_after(self, item: PromptRollouts, step: int) -> Sequence[Extra | Injected]:
        """What `ExtraRequests.after` asks of a prompt. Raises ConfigError if the call fails."""
        if (named := self.requests) is None:
            return ()
        facts = self._facts(named, step)
        with calling(f"recipe.requests: {named.name} failed in `after` on {item.prompt.row}"):
            return tuple(named.hook.after(item, facts))

    def shaped(
        self, rollouts: list[PromptRollouts], step: int, signals: SignalValues = NO_SIGNALS
    ) -> list[PromptRollouts]:
        """The rollouts with the amounts of each `GroupShaping` added to their scores and recorded as parts.

        A response whose new score is not usable fails; the log names the shaping once.
        signals: what `self.signals` asks for.
        Raises ConfigError if a shaping fails, for a wrong number of amounts, and for a part that a reward has given
        already.
        """
        for named in self.shaping:
            facts = self._facts(named, step)
            amounts = [amount for item in rollouts for amount in _amounts(named, item, facts, signals)]
            shaped = add_to_scores(rollouts, named.hook.part, amounts)
            rollouts = self.failed_scores.noted(f"recipe.shaping: {named.name}", rollouts, shaped)
        return rollouts

    def weighted(
        self, kept: list[SampledPrompt], settings: AdvantageSettings, step: int
    ) -> tuple[list[SampledPrompt], dict[str, float]]:
        """(prompts to train on, with the advantages and weights that the `AdvantageRule`s give; metrics).

        Raises ConfigError if a rule fails or gives another number of values, a value that is not finite, or a weight
        below 0.
        """
        if not self.advantage or not kept:
            return kept, {}
        prompts = [item.rollouts for item in kept]
        statistics = PooledRewards.of_rollouts(prompts).advantages(settings)
        base = replace(
            statistics,
            values=torch.tensor([a for item in kept for a in item.advantages], dtype=torch.float64),
            weights=torch.tensor([w for item in kept for w in item.weights], dtype=torch.float64),
        )
        found, size_before = base, _mean_size(base)
        for named in self.advantage:
            facts = self._facts(named, step)
            with calling(f"recipe.advantage: {named.name} failed in step {step}"):
                found = named.hook(found, prompts, facts)
            _check_advantages(named.name, found, base)
        ruled = with_advantages(prompts, found)
        metrics = {
            "critic/advantages/size_before_rules": size_before,
            "critic/advantages/size_after_rules": _mean_size(found),
        }
        pairs = zip(ruled, kept, strict=True)
        return [replace(old, advantages=new.advantages, weights=new.weights) for new, old in pairs], metrics

    def snapshot(self, sampler: Mapping[str, Any]) -> str | None:
        """What the hooks keep between steps, as JSON; None if no hook keeps anything. sampler: the sampler's state.
        Raises ConfigError if a rule fails to give its state, and as `as_json` does."""
        if not self.advantage and not sampler:
            return None
        states = {}
        for named in self.advantage:
            with calling(f"recipe.advantage: {named.name} failed when it gave its state"):
                states[named.name] = named.hook.state()
        return as_json(
            ", ".join([*states, *([sampler["name"]] if sampler else [])]), {"sampler": sampler, "advantage": states}
        )

    def restore(self, snapshot: str | None) -> Mapping[str, Any]:
        """Continue from a `snapshot`; None: begin anew. A rule without a state in it begins anew. Returns the sampler's
        state, which is {} if there is none.

        Raises ConfigError if the snapshot has the state of a rule that the run does not have, or if a rule fails.
        """
        found = json.loads(snapshot or _NOTHING)
        states: Mapping[str, Any] = {**json.loads(self.initial or _NOTHING)["advantage"], **found["advantage"]}
        rules = {named.name: named.hook for named in self.advantage}
        unknown = [name for name, state in states.items() if state and name not in rules]
        if unknown:
            raise ConfigError(
                f"recipe.advantage: the checkpoint has the state of {', '.join(unknown)}; "
                f"got {', '.join(rules) or 'no rule'}; resume with the rules that the run was started with"
            )
        for name, state in states.items():
            if name in rules:
                with calling(f"recipe.advantage: {name} failed when it got its state back"):
                    rules[name].restore(state)
        return found["sampler"]

    def _facts(self, named: Named[Any], step: int) -> StepFacts:
        assert self.num_steps is not None, "the run's number of steps is not known yet"
        progress = min(step - 1, self.num_steps - 1) / self.num_steps
        return StepFacts(step, progress, self._settings(named, step), self.seed)

    def _settings(self, named: Named[Any], step: int) -> Any:
        file = named.name.partition(":")[0]
        values = {name: ramp.at(step) for name, ramp in ramped_settings(file, self.ramps).items()}
        with calling(f"recipe.settings.{file}: the values of step {step} were refused"):
            return at_step(named.settings, values)


def sampler_state(snapshot: str) -> Mapping[str, Any]:
    """The sampler's part of a `StepHooks.snapshot`; {} if it has none."""
    return json.loads(snapshot)["sampler"]


def as_json(names: str, state: Mapping[str, Any]) -> str:
    """The state of hooks as JSON text. names: of these hooks, for messages.

    Raises ConfigError if the state is not JSON, or if a key is not text: JSON would turn it into text, and a resumed
    run would not find it.
    """
    for key in _keys(state):
        if not isinstance(key, str):
            raise ConfigError(f"recipe: the state of {names} has a key that is no text; got {key!r}; give str({key!r})")
    try:
        return json.dumps(state)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"recipe: the state of {names} is not JSON ({error}); give plain values") from error


def _keys(state: Any) -> Iterator[Any]:
    """All keys of a state, also those of mappings inside it."""
    if isinstance(state, Mapping):
        yield from state
        state = list(state.values())
    if isinstance(state, list | tuple):
        for item in state:
            if isinstance(item, Mapping | list | tuple):
                yield from _keys(item)


def _amounts(named: Named[GroupShaping], item: PromptRollouts, facts: StepFacts, signals: SignalValues) -> list[float]:
    """One amount for each rollout of `groups(item)`. Own groups get 0, and so do anchors if on="multi"."""
    shaping = named.hook
    if any(shaping.part in r.reward.parts for group in groups(item) for r in group.rollouts if r.valid):
        raise ConfigError(
            f"recipe.shaping: {named.name} adds the part {shaping.part}, which the reward of {item.prompt.row} has "
            "already; rename one of the two"
        )
    shaped = shaped_groups(item, shaping.on)
    if asked := signals_of(shaping):
        facts = replace(facts, signals={signal.spec.name: signals.of(signal, shaped) for signal in asked})
    with calling(f"recipe.shaping: {named.name} failed on {item.prompt.row}"):
        given = list(map(float, shaping(item, facts)))
    wanted, total = (sum(len(group.rollouts) for group in some) for some in (shaped, groups(item)))
    if len(given) != wanted:
        raise ConfigError(
            f"recipe.shaping: {named.name} must give one amount for each of the {wanted} rollouts of {item.prompt.row} "
            f'(on="{shaping.on}"); got {len(given)}; docs/extend.md has an example'
        )
    return [*given, *[0.0] * (total - wanted)]


def _check_advantages(name: str, found: Any, base: Advantages) -> None:
    if not isinstance(found, Advantages):
        wrong = f"got {type(found).__name__}; return replace(base, values=..., weights=...)"
        raise ConfigError(f"recipe.advantage: {name} does not give Advantages; {wrong}")
    for what, got, wanted in (("values", found.values, base.values), ("weights", found.weights, base.weights)):
        if not isinstance(got, torch.Tensor):
            wrong = f"gives {what} that are no tensor; got {type(got).__name__}; use base.{what}.new_tensor(...)"
            raise ConfigError(f"recipe.advantage: {name} {wrong}")
        if got.shape != wanted.shape:
            shapes = f"got {list(got.shape)}; give {list(wanted.shape)}"
            raise ConfigError(f"recipe.advantage: {name} gives {what} of another shape; {shapes}")
        if not bool(torch.isfinite(got).all()):
            raise ConfigError(f"recipe.advantage: {name} gives {what} that are not finite; give finite numbers")
    if bool((found.weights < 0).any()):
        raise ConfigError(f"recipe.advantage: {name} gives weights below 0; change the sign of the values instead")


def _mean_size(advantages: Advantages) -> float:
    """Mean of |advantage| * weight over all responses; 0 without responses."""
    sizes = advantages.values.abs() * advantages.weights
    return float(sizes.mean()) if len(sizes) else 0.0
