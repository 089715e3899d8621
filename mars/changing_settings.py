"""Settings of a recipe's hook that change during a run (`ramps`): their values in a step, and a guard against code that
reads them only once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mars.errors import ConfigError

_PLAIN, _KEYS = "_settings_that_can_be_read", "_keys_of_ramps"


def at_step(settings: Any, values: Mapping[str, float]) -> Any:
    """The settings with these values, by name. A value is rounded where `settings` has an integer."""
    if not values:
        return settings
    settings = getattr(settings, _PLAIN, settings)
    changed = {name: round(value) if type(getattr(settings, name)) is int else value for name, value in values.items()}
    return dataclasses.replace(settings, **changed)


def changing_keys(settings: Any) -> tuple[str, ...]:
    """The keys of the ramps that change `settings`, if it has the guard of `read_once`; otherwise ()."""
    return tuple(getattr(settings, _KEYS, ()))


def read_once(settings: Any, ramped: Mapping[str, str], reader: str) -> Any:
    """The settings for an object that does not follow ramps.

    Reading a setting that a ramp changes raises ConfigError, because the object would keep the first value. `at_step`
    makes settings without this guard.
    ramped: name of a setting that changes -> key of its ramp. reader: names the object in the error.
    """
    if settings is None or not ramped:
        return settings
    plain = type(settings)

    class Guarded(plain):
        def __getattribute__(self, name: str) -> Any:
            if name in ramped:
                wrong = f"{reader} reads it once and not in each step, so that it would not follow"
                raise ConfigError(f"ramps: {ramped[name]}: {wrong}; got a ramp; leave it out")
            return super().__getattribute__(name)

    Guarded.__name__, Guarded.__qualname__ = plain.__name__, plain.__qualname__
    guarded = object.__new__(Guarded)
    for field in dataclasses.fields(settings):
        object.__setattr__(guarded, field.name, getattr(settings, field.name))
    object.__setattr__(guarded, _PLAIN, settings)
    object.__setattr__(guarded, _KEYS, tuple(ramped.values()))
    return guarded
