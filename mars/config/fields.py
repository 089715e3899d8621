"""Types and ranges: what pydantic finds wrong with the values, in the words of docs/config.md."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from mars.config.keys import expected, leaves
from mars.config.problem import Problem
from mars.config.schema import Root

_RANGES = ("greater_than", "less_than", "finite_number")


def check_fields(schema: type[Root], values: Mapping[str, Any]) -> tuple[Root | None, list[Problem]]:
    """The configuration that `values` (dotted key -> value) make, or None and one problem for each wrong key.

    Rules between keys are checked too, but not reported: `mars.config.rules.broken_rules` does that.
    """
    nested: dict[str, dict[str, Any]] = {section: {} for section in schema.model_fields}
    for key, value in values.items():
        section, _, name = key.partition(".")
        nested[section][name] = value
    try:
        return schema.model_validate(nested), []
    except ValidationError as error:
        fields = leaves(schema)
        problems: dict[str, Problem] = {}
        for details in error.errors():
            key, place = ".".join(map(str, details["loc"][:2])), details["loc"][2:]
            if key in fields:  # an error of the whole configuration is a rule's
                problems.setdefault(key, _problem(key, place, fields[key], details))
        return None, list(problems.values())


def _problem(key: str, place: tuple[int | str, ...], field: FieldInfo, details: ErrorDetails) -> Problem:
    words = expected(field)
    do, value = f"give {_article(words)}{words}", details["input"]
    where = f" at [{place[0]}]" if place else ""
    kind = details["type"]
    if kind == "missing":
        return Problem(key, "not set", do)
    if kind == "literal_error":
        return Problem(key, "not one of the choices", _choice_hint(field, value) + do, got=value)
    if kind.startswith(_RANGES):
        return Problem(key, f"out of range{where}", do, got=value)
    if kind.endswith("too_short"):
        return Problem(key, f"empty{where}", do, got=value)
    if kind == "list_type" and isinstance(value, str):
        do += f", such as {key}=[{value}]"
    return Problem(key, f"wrong type{where}", do, got=value)


def _article(words: str) -> str:
    if words.startswith("integer"):
        return "an "
    return "a " if words.startswith(("number", "list", "non-empty list", "mapping")) else ""


def _choice_hint(field: FieldInfo, value: Any) -> str:
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    if isinstance(value, bool) and not value and "off" in choices:
        return "write off in quotes (YAML reads it as false); "
    close = get_close_matches(str(value), choices, n=1)
    return f"did you mean {close[0]}? " if close else ""
