"""The settings of a user's file: the values in `recipe.settings` as the file's own `Settings`."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as validated
from pydantic.errors import PydanticUserError
from pydantic_core import ErrorDetails

from mars.errors import ConfigError, MarsError
from mars.users_code import calling

CLASS = "Settings"
_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def read_settings(key: str, module: ModuleType, values: Mapping[str, Any] | None) -> Any | None:
    """An instance of the class `Settings` that a user's file declares, with exactly these values; None if the file
    declares no such class.

    `Settings` is a frozen dataclass without defaults, so that every value is in a configuration file. Values are of the
    declared types: an integer is also taken for a float, and a list for a tuple.

    key: the key of `values`, for messages. values: None if the key is not set. Raises ConfigError.
    """
    settings = getattr(module, CLASS, None)
    if settings is None:
        if values is not None:
            raise ConfigError(
                f"{key}: {module.__file__} declares no class {CLASS}; got {dict(values)}; leave the key out"
            )
        return None
    fields = _fields(settings, f"{module.__file__}: {CLASS}")
    given, failure = json.dumps(values or {}), f"{key}: {module.__file__}: {CLASS} failed"
    try:
        adapter = TypeAdapter(validated(frozen=True, config=_STRICT)(settings))
        with calling(failure, unchanged=(MarsError, ValidationError, PydanticUserError)):
            read = adapter.validate_json(given)
            return settings(**{name: getattr(read, name) for name in fields})
    except ValidationError as error:
        raise ConfigError("\n".join(_problem(key, fields, details) for details in error.errors())) from error
    except (PydanticUserError, NameError, TypeError) as error:
        raise ConfigError(
            f"{module.__file__}: the types of {CLASS} cannot be read ({error}); use plain types"
        ) from error


def _fields(settings: Any, where: str) -> dict[str, str]:
    """Name -> type of each field of the dataclass `settings`, the type as the file writes it. Raises ConfigError."""
    if not (inspect.isclass(settings) and dataclasses.is_dataclass(settings)):
        raise ConfigError(f"{where} is no dataclass; write @dataclass(frozen=True) above it")
    if not settings.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise ConfigError(f"{where} is not frozen; write @dataclass(frozen=True) above it")
    fields = dataclasses.fields(settings)
    missing = dataclasses.MISSING
    with_default = [f.name for f in fields if f.default is not missing or f.default_factory is not missing]
    if with_default:
        wrong = f"has a default for {', '.join(with_default)}"
        raise ConfigError(f"{where} {wrong}; leave it out and give the value in recipe.settings")
    return {f.name: f.type if isinstance(f.type, str) else inspect.formatannotation(f.type) for f in fields}


def _problem(key: str, fields: Mapping[str, str], details: ErrorDetails) -> str:
    if not details["loc"]:  # the class's own check of several values together
        reason = details["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        return f"{key}: {reason}; got {details['input']!r}"
    name, *place = details["loc"]
    where, value = f"{key}.{name}", details["input"]
    if name not in fields:
        return f"{where}: unknown setting; got {value!r}; the settings are {', '.join(fields) or 'none'}"
    do = f"give {fields[str(name)]}, as the file declares"
    if details["type"] == "missing" and not place:
        return f"{where}: not set; {do}"
    within = f" at [{place[0]}]" if place else ""
    return f"{where}: {details['msg'].lower()}{within}; got {value!r}; {do}"
