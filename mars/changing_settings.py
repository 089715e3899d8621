"""Settings of a user's file that change during a run (`ramps`): their values in a step, and a guard for what reads them
only once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mars.errors import ConfigError

_PLAIN, _KEYS = "_settings_that_can_be_read", "_keys_of_ramps"


def at_step(settings: Any, values: Mapping[str, float]) -> Any:
    """The settings with these values, by name. A number that is an integer in `settings` stays one: it is rounded.

    Without values the settings are returned as they are: those that `read_once` guards stay guarded.
    """
    if not values:
        return settings
    settings = getattr(settings, _PLAIN, settings)
    changed = {name: round(value) if type(getattr(settings, name)) is int else value for name, value in values.items()}
    return dataclasses.replace(settings, **changed)


def changing_keys(settings: Any) -> tuple[str, ...]:
    """The keys of the ramps that `read_once` guards; () for settings without a guard."""
    return tuple(getattr(settings, _KEYS, ()))


def read_once(settings: Any, ramped: Mapping[str, str], reader: str) -> Any:
    """The settings for an object that does not follow ramps: it reads them when it is made, or later as they are here.

    ramped: the names of those that change -> the key of the ramp. To read one of them raises ConfigError, because the
    reader would not follow. reader: for this message. `at_step` makes settings from it that can be read.
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
