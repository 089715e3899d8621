"""Make the hooks that the section `recipe` names, each with the settings of its file.

    recipe:
      advantage: [my_method/functions.py:DifficultyWeight]
      settings: {my_method: {stage: s3}}

A name stands for a class or a function that makes the hook: an object with the attributes and methods of the hook's
Protocol. Files are run in the processes that call the hooks, and before that in the process that checks the settings.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mars.algorithms.penalties import KL_PART, OVERLONG_PART
from mars.algorithms.scoring import ScoringSpec
from mars.algorithms.token_rule import TokenRule
from mars.changing_settings import read_once
from mars.config.ramp_section import Ramp, ramped_settings
from mars.config.recipe_section import RecipeConfig
from mars.config.schema import TrainConfig
from mars.errors import ConfigError
from mars.hooks.contract import (
    RULE_MEMBERS,
    SAMPLER_MEMBERS,
    SHAPING_MEMBERS,
    GroupShaping,
    SamplerSetup,
    Signal,
)
from mars.hooks.guest_filter import FILTER, FILTER_WANTED, load_filter
from mars.hooks.known_prompts import KnownPrompts
from mars.hooks.needs import check_needs
from mars.hooks.prompt_sampler import SampledRounds
from mars.hooks.ramp_checks import check_ramps
from mars.hooks.requests import REQUESTS_MEMBERS
from mars.hooks.settings import read_settings
from mars.hooks.signals import signals_of
from mars.hooks.step_hooks import Named, StepHooks
from mars.plugin import load, resolve
from mars.users_code import calling

_WANTED = "want path/to/file.py:name"
_SAMPLES = "rollout.samples_per_prompt"
_FUNCTIONS = "functions"  # a file of this name goes by its folder's name in recipe.settings


def with_resolved_recipe(config: TrainConfig) -> TrainConfig:
    """The configuration with the recipe that `resolved` returns, and with the absolute path of `anchor.guide_filter`.
    Runs the files of the recipe's hooks.

    Raises ConfigError as `resolved` and `check_needs` do.
    """
    anchor = config.anchor
    if anchor.guide_filter is not None:
        path = resolve(FILTER, anchor.guide_filter, f"want {FILTER_WANTED}")
        anchor = anchor.model_copy(update={"guide_filter": path})
    config = config.model_copy(update={"recipe": resolved(config.recipe), "anchor": anchor})
    hooks = [(key, spec) for key, listed in specs(config.recipe).items() for spec in listed]
    files = {spec.rpartition(":")[0]: (key, spec) for key, spec in hooks}
    for key, spec in files.values():
        check_needs(load(key, spec, _WANTED.removeprefix("want "), classes=True).module, config)
    return config


def resolved(recipe: RecipeConfig) -> RecipeConfig:
    """The section with absolute paths. Runs no file.

    Raises ConfigError for a file that is not there, for two files that have the same name in `recipe.settings`, and for
    an entry of `recipe.settings` that is the name of none of the files.
    """

    single = {hook: spec and _found(hook, spec) for hook, spec in _single(recipe).items()}
    changed = recipe.model_copy(
        update={
            **single,
            "shaping": [_found("shaping", spec) for spec in recipe.shaping],
            "advantage": [_found("advantage", spec) for spec in recipe.advantage],
            "transforms": {name: _found("transforms", spec) for name, spec in recipe.transforms.items()},
        }
    )
    _check_names(changed)
    return changed


def _single(recipe: RecipeConfig) -> dict[str, str | None]:
    return {"sampler": recipe.sampler, "requests": recipe.requests, "tokens": recipe.tokens}


def _found(hook: str, spec: str) -> str:
    return resolve(f"recipe.{hook}", spec, _WANTED)


def specs(recipe: RecipeConfig) -> dict[str, list[str]]:
    """{"recipe.<key>": the hooks that this key names}, as `mars.plugin.record` takes them."""
    several = {"shaping": recipe.shaping, "advantage": recipe.advantage, "transforms": [*recipe.transforms.values()]}
    listed = {hook: [] if spec is None else [spec] for hook, spec in _single(recipe).items()} | several
    return {f"recipe.{hook}": found for hook, found in listed.items()}


def specs_of_run(config: TrainConfig) -> dict[str, list[str]]:
    """`specs` of the recipe, and the filter of guests."""
    own = config.anchor.guide_filter
    return {**specs(config.recipe), FILTER: [] if own is None else [own]}


def settings_name(spec: str) -> str:
    """The key of `recipe.settings` for a hook's file: the file's name, or its folder's if the file is functions.py.

    >>> settings_name("/own/vade.py:Sampler"), settings_name("/recipe/vade/functions.py:Sampler")
    ('vade', 'vade')
    """
    path = Path(spec.rpartition(":")[0])
    return path.parent.name if path.stem == _FUNCTIONS else path.stem


def hooks_of_run(config: TrainConfig, rule: TokenRule | None) -> StepHooks:
    """Make the hooks that a step calls in the driver. The `num_steps` of the result is None until `for_steps`.

    `config.recipe` must come from `resolved`. rule: the token rule of `recipe.tokens`; a ramp may change its settings.

    Raises ConfigError for
    - an object that is no hook;
    - a shaping whose part has a name that another shaping, `algorithm.part_weights` or mars itself uses;
    - signals that the trainer cannot compute;
    - ramps that `check_ramps` refuses, and a filter of guests that `load_filter` refuses.
    """
    recipe, ramps, part_weights = config.recipe, config.ramps, config.algorithm.part_weights
    shaping = tuple(_named(recipe, "recipe.shaping", spec, SHAPING_MEMBERS) for spec in recipe.shaping)
    taken = dict.fromkeys((OVERLONG_PART, KL_PART), "mars") | dict.fromkeys(part_weights, "algorithm.part_weights")
    for named in shaping:
        part, on = named.hook.part, named.hook.on
        if on not in ("multi", "all"):
            raise ConfigError(
                f'recipe.shaping: {named.name}.on is not one of the choices; got {on!r}; give "multi" or "all"'
            )
        if not isinstance(part, str) or not part:
            raise ConfigError(f"recipe.shaping: {named.name}.part is not a name; got {part!r}; give a text")
        if part in taken:
            raise ConfigError(f"recipe.shaping: {named.name} adds the part {part}, a name of {taken[part]}; rename it")
        taken[part] = named.name
        _check_signals(named, recipe.transforms, config.algorithm.loads_reference)
    rules = tuple(_named(recipe, "recipe.advantage", spec, RULE_MEMBERS) for spec in recipe.advantage)
    requests = recipe.requests and _named(recipe, "recipe.requests", recipe.requests, REQUESTS_MEMBERS)
    check_ramps(ramps, (*shaping, *rules, *([requests] if requests else []), *_followed_rule(recipe, rule, ramps)))
    seed, followed = config.run.seed, tuple(ramps)
    hooks = StepHooks(None, seed, shaping, rules, requests=requests or None, ramps=followed)
    own_filter = load_filter(config.anchor.guide_filter)
    return replace(hooks, initial=hooks.snapshot(sampler={}), guest_filter=own_filter)


def _check_signals(named: Named[GroupShaping], transforms: Collection[str], with_reference: bool) -> None:
    given, where = signals_of(named.hook), f"recipe.shaping: {named.name}.signals"
    if not isinstance(given, tuple) or any(
        not isinstance(signal, Signal) or not isinstance(signal.spec, ScoringSpec) for signal in given
    ):
        raise ConfigError(f"{where} is no tuple of Signal; got {given!r}; docs/extend.md has an example")
    for signal in given:
        spec = signal.spec
        if [other.spec.name for other in given].count(spec.name) > 1:
            raise ConfigError(f"{where} has two signals of one name; got {spec.name!r}; rename one of them")
        if spec.needs_reference and not with_reference:
            raise ConfigError(
                f"{where}: {spec.name!r} needs a reference model; none is loaded with algorithm.kl_coefficient=0.0 and "
                "algorithm.reference_every=null; set one of the two"
            )
        if spec.transform is not None and spec.transform not in transforms:
            raise ConfigError(
                f"{where}: {spec.name!r} uses an image transform that recipe.transforms does not have; got "
                f"{spec.transform!r}; the transforms are {', '.join(transforms) or 'none'}"
            )


def _followed_rule(recipe: RecipeConfig, rule: TokenRule | None, ramps: Sequence[Ramp]) -> list[Named[TokenRule]]:
    """The rule of `recipe.tokens` in a list, if a ramp changes a setting of its file; else []."""
    spec, key = recipe.tokens, "recipe.tokens"
    if rule is None or spec is None or not ramped_settings(settings_name(spec), ramps):
        return []
    name, module = settings_name(spec), load(key, spec, "(settings: Settings)", classes=True).module
    settings = read_settings(f"recipe.settings.{name}", module, recipe.settings.get(name))
    return [Named(f"{name}:{spec.rpartition(':')[2]}", rule, settings)]


def load_sampler(
    recipe: RecipeConfig, setup: SamplerSetup, known: KnownPrompts | None, ramps: Sequence[Ramp]
) -> SampledRounds | None:
    """The rounds of prompts that `recipe.sampler` chooses; None if it is null.

    recipe: as `resolved` returns it.
    known: reads further rows for the sampler while the run trains; None: the sampler cannot read any.
    ramps: those of the run. A sampler that reads a setting which one of them changes gets a ConfigError.
    """
    spec = recipe.sampler
    if spec is None:
        return None
    setup = setup if known is None else replace(setup, read_rows=known.read)
    samples = {ramp.key.removeprefix("rollout."): ramp.key for ramp in ramps if ramp.key == _SAMPLES}
    given = read_once(setup, samples, f"recipe.sampler: {spec}")
    sampler = make_hook(recipe, "recipe.sampler", spec, SAMPLER_MEMBERS, [given], ramps)
    return SampledRounds(f"{settings_name(spec)}:{spec.rpartition(':')[2]}", sampler, setup, known)


def _named(recipe: RecipeConfig, key: str, spec: str, members: Mapping[str, int | None]) -> Named[Any]:
    """A hook that is made without arguments, because it gets its settings in each call."""
    function = load(key, spec, "()", classes=True)
    function.check_call()
    with calling(f"{key}: {spec} failed when it was made"):
        hook = function.call()
    for member, count in members.items():
        _check_member(f"{key}: {spec}", hook, member, count)
    name = settings_name(spec)
    settings = read_settings(f"recipe.settings.{name}", function.module, recipe.settings.get(name))
    return Named(f"{name}:{spec.rpartition(':')[2]}", hook, settings)


def _check_names(recipe: RecipeConfig) -> None:
    files = {(settings_name(spec), spec.rpartition(":")[0]) for listed in specs(recipe).values() for spec in listed}
    for name, count in Counter(name for name, _ in files).items():
        if count > 1:
            paths = ", ".join(sorted(path for other, path in files if other == name))
            raise ConfigError(f"recipe.settings.{name}: stands for {count} files; got {paths}; rename all but one")
    names = sorted(name for name, _ in files)
    for name in recipe.settings:
        if name not in names:
            do = f"the files are {', '.join(names)}" if names else "leave it out"
            raise ConfigError(f"recipe.settings.{name}: no file of the recipe has this name; {do}")


def make_hook(
    recipe: RecipeConfig,
    key: str,
    spec: str,
    members: Mapping[str, int | None],
    arguments: Sequence[Any],
    ramps: Sequence[Ramp],
) -> Any:
    """Run the file of `spec` and call what it names with `arguments` and the file's settings, if it declares any.

    recipe: as `resolved` returns it. key: the setting that has `spec`, such as "recipe.advantage".
    members: what the hook must have: method -> number of its arguments, attribute -> None.
    ramps: of the run. The settings that the hook gets do not follow ramps: if it reads one that a ramp changes,
        ConfigError is raised (`read_once`).
    Raises ConfigError if a member is missing.
    """
    name = settings_name(spec)
    wanted = f"({', '.join([*(type(given).__name__ for given in arguments), 'settings: Settings'])})"
    function = load(key, spec, wanted, classes=True)
    settings = read_settings(f"recipe.settings.{name}", function.module, recipe.settings.get(name))
    ramped = {setting: ramp.key for setting, ramp in ramped_settings(name, ramps).items()}
    settings = read_once(settings, ramped, f"{key}: {spec}")
    given = [*arguments, *([] if settings is None else [settings])]
    function.check_call(*given)
    with calling(f"{key}: {spec} failed when it was made"):
        hook = function.call(*given)
    for member, count in members.items():
        _check_member(f"{key}: {spec}", hook, member, count)
    return hook


def _check_member(where: str, hook: Any, member: str, count: int | None) -> None:
    with calling(f"{where} failed at its {member!r}"):
        found = hook if member == "__call__" and inspect.isfunction(hook) else getattr(hook, member, None)
    if found is None:
        raise ConfigError(f"{where} makes a {type(hook).__name__} without {member!r}; docs/extend.md has an example")
    if count is None:
        return
    if not callable(found) or inspect.iscoroutinefunction(found):
        raise ConfigError(f"{where}: {member!r} is not a plain method; docs/extend.md has an example")
    signature = inspect.signature(found)
    try:
        signature.bind(*[None] * count)
    except TypeError as error:
        wrong = f"{member} takes {signature}, not {count} arguments ({error})"
        raise ConfigError(f"{where}: {wrong}; docs/extend.md has an example") from error
