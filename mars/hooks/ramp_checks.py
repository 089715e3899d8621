"""Check the ramps that change settings of files with hooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from mars.changing_settings import at_step
from mars.config.ramp_section import SETTINGS, Ramp, ramped_settings
from mars.errors import ConfigError, MarsError
from mars.hooks.step_hooks import Named
from mars.users_code import calling

_MOST_STEPS = 10_000  # about so many steps are tried at most


def check_ramps(ramps: Sequence[Ramp], hooks: Sequence[Named[Any]]) -> None:
    """Raises ConfigError for a ramp of a setting in `recipe.settings` that no hook of the setting's file names in its
    attribute `ramps`, and for settings in `recipe.settings` that are not valid in some step.

    hooks: the run's shapings, advantage rules, requests and token rule.
    """
    files: dict[str, tuple[Any, list[str]]] = {}
    for named in hooks:
        _, names = files.setdefault(named.name.partition(":")[0], (named.settings, []))
        names += _followed(named)
    for ramp in ramps:
        if ramp.key.startswith(SETTINGS):
            file, _, name = ramp.key.removeprefix(SETTINGS).partition(".")
            settings, names = files.get(file, (None, []))
            _check_ramp(ramp, file, name, settings, names)
    for file, (settings, _) in files.items():
        if changing := ramped_settings(file, ramps):
            _check_values(settings, changing)


def _followed(named: Named[Any]) -> tuple[str, ...]:
    """The hook's attribute `ramps`; () if it has none.

    Raises ConfigError unless it is a tuple of names of settings of the hook's file.
    """
    names = getattr(named.hook, "ramps", ())
    known = [] if named.settings is None else [field.name for field in fields(named.settings)]
    if not isinstance(names, tuple) or any(name not in known for name in names):
        do = f"give a tuple of names of settings; they are {', '.join(known) or 'none'}"
        raise ConfigError(f"recipe: {named.name}.ramps cannot be used; got {names!r}; {do}")
    return names


def _check_ramp(ramp: Ramp, file: str, name: str, settings: Any, names: Sequence[str]) -> None:
    where = f"ramps: {ramp.key}"
    if name not in names:
        do = f"give one of {', '.join(dict.fromkeys(names))}" if names else "leave this ramp out"
        wrong = f"no hook of the run reads it anew in each step, as its attribute `ramps` says; got {name!r}"
        raise ConfigError(f"{where}: {wrong}; {do}")
    value = getattr(settings, name)
    if type(value) not in (int, float):
        raise ConfigError(f"{where}: no number; got {value!r}; leave this ramp out")
    for end in (ramp.first, ramp.last):
        if type(value) is int and not end.is_integer():
            raise ConfigError(f"{where}: not an integer; got {end:g}; give integers; those in between are rounded")


def _check_values(settings: Any, changing: Mapping[str, Ramp]) -> None:
    """Make the settings of a hook's file with both ends of all ramps, and with the values of each step (of about
    `_MOST_STEPS` steps if there are more), so that the check in their class (`__post_init__`) sees these values.
    Raises ConfigError if this check refuses some."""
    last = max(ramp.start + ramp.steps for ramp in changing.values())
    tried: list[tuple[str, dict[str, float]]] = [
        (f" in step {step}", {name: ramp.at(step) for name, ramp in changing.items()})
        for step in range(1, last + 1, 1 + last // _MOST_STEPS)
    ]
    ends = [{name: getattr(ramp, end) for name, ramp in changing.items()} for end in ("first", "last")]
    for when, values in [*(("", end) for end in ends), *tried]:
        keys = ", ".join(ramp.key for ramp in changing.values())
        try:
            with calling(f"ramps: {keys}: {type(settings).__name__} failed", unchanged=(MarsError, ValueError)):
                at_step(settings, values)
        except ValueError as error:
            got = ", ".join(f"{v:g}" for v in values.values())
            raise ConfigError(f"ramps: {keys}: {error}; got {got}{when}; give other ends") from error
