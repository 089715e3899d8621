"""Turn pydantic's errors about types and ranges into one problem for each wrong key, in the words of docs/config.md."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from mars.config.keys import expected, leaves, sections_of
from mars.config.problem import Problem
from mars.config.renamed import renamed_value
from mars.config.rules import Rule
from mars.config.section import Root

_OFF = re.compile(r"\b(?:0|1|null): [^.,;]+")
_RANGES = ("greater_than", "less_than", "finite_number")


def check_fields(
    schema: type[Root], values: Mapping[str, Any], rules: tuple[Rule, ...] | None = None
) -> tuple[Root | None, list[Problem]]:
    """The configuration of `values` (dotted key -> value), or None and one problem for each wrong key.

    rules: the rules between keys that apply; None for all those of the schema. A broken one also gives None, but no
        problem: `mars.config.rules.broken_rules` reports it.
    """
    fields = leaves(schema)
    try:
        return schema.model_validate(_nested(fields, values), context=rules), []
    except ValidationError as error:
        problems: dict[str, Problem] = {}
        for details in error.errors():
            key, place = _split(details["loc"], fields)
            if key is not None:  # an error of the whole configuration is a rule's
                problems.setdefault(key, _problem(key, place, fields[key], details))
        return None, list(problems.values())


def _nested(fields: Collection[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested dictionaries, with every section there, so that pydantic names each missing key."""
    places: dict[str, dict[str, Any]] = {"": {}}
    for section in (section for key in fields for section in sections_of(key)):
        parent, _, name = section.rpartition(".")
        places.setdefault(section, places[parent].setdefault(name, {}))
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        places[section][name] = value
    return places[""]


def _split(location: tuple[int | str, ...], fields: Collection[str]) -> tuple[str | None, tuple[int | str, ...]]:
    """A key and the place inside its value, from pydantic's path: ("data", "weights", 1) -> "data.weights", (1,)."""
    for depth in range(1, len(location) + 1):
        key = ".".join(map(str, location[:depth]))
        if key in fields:
            return key, location[depth:]
    return None, ()


def _problem(key: str, place: tuple[int | str, ...], field: FieldInfo, details: ErrorDetails) -> Problem:
    words = expected(field)
    value = details["input"]
    do = f"give {_article(words)}{words}{_off_hint(field, value)}"
    where = f" at [{place[0]}]" if place else ""
    kind = details["type"]
    if kind == "missing":
        return Problem(key, "not set", do)
    if kind == "literal_error":
        return Problem(key, "not one of the choices", _choice_hint(key, field, value) + do, got=value)
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


def _off_hint(field: FieldInfo, value: Any) -> str:
    """How to turn the setting off, for a user who gave -1, 0 or null; "" for another value, or if nothing turns it
    off.

    Example: " (0: all)" for a field whose description says so.
    """
    if isinstance(value, bool) or value not in (-1, 0, None):
        return ""
    found = _OFF.search(field.description or "")
    return f" ({found.group()})" if found else ""


def _choice_hint(key: str, field: FieldInfo, value: Any) -> str:
    renamed = renamed_value(key, value)
    if renamed is not None:
        return f"renamed to {renamed}; "
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    close = get_close_matches(str(value), choices, n=1)
    return f"did you mean {close[0]}? " if close else ""
