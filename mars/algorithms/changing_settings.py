"""Settings of a user's file that change during a run (`ramps`): their values in a step, and a guard for what reads them
only once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


def at_step(settings: Any, values: Mapping[str, float]) -> Any:
    """The settings with these values, by name. A number that is an integer in `settings` stays one: it is rounded."""
    if not values:
        return settings
    changed = {name: round(value) if type(getattr(settings, name)) is int else value for name, value in values.items()}
    return dataclasses.replace(settings, **changed)
