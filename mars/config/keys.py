"""The dotted keys of a schema: which there are, what each takes, and which one a wrong key meant."""

from __future__ import annotations

import types
from collections.abc import Collection, Iterable
from difflib import SequenceMatcher
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic.fields import FieldInfo

from mars.config.schema import Root

_NAMES = {int: "integer", float: "number", str: "text", bool: "true or false", types.NoneType: "null"}
_BOUNDS = {Gt: ("gt", ">"), Ge: ("ge", ">="), Lt: ("lt", "<"), Le: ("le", "<=")}
_SIMILAR = 0.6
_SAME_SECTION = 0.5
_PENALTY = 0.1
_MOST_SUGGESTIONS = 3


def leaves(schema: type[Root]) -> dict[str, FieldInfo]:
    """Dotted key -> field, in the order of the schema."""
    found = {}
    for section, field in schema.model_fields.items():
        settings: Any = field.annotation
        found.update({f"{section}.{name}": leaf for name, leaf in settings.model_fields.items()})
    return found


def mappings(schema: type[Root]) -> frozenset[str]:
    """The keys whose value is a mapping with names of the user's own."""
    return frozenset(key for key, field in leaves(schema).items() if get_origin(field.annotation) is dict)


def expected(field: FieldInfo) -> str:
    """What a key takes, in words: "integer > 0 or null"."""
    return _words(field.annotation, field.metadata)


def _words(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        nested = [item for extra in arguments[1:] for item in getattr(extra, "metadata", [extra])]
        return _words(arguments[0], nested)
    if origin in (Union, types.UnionType):
        return " or ".join(_words(argument) for argument in arguments)
    if origin is Literal:
        return "one of " + ", ".join(arguments)
    if origin is list:
        return f"{_filled(metadata)}list of {_words(arguments[0])}"
    if origin is dict:
        return f"mapping of {_words(arguments[0])} to {_words(arguments[1])}"
    bounds = [f"{sign} {getattr(item, name)}" for item in metadata for name, sign in _bound(item)]
    return " ".join([_filled(metadata) + _NAMES[annotation], " and ".join(bounds)]).strip()


def _filled(metadata: Iterable[Any]) -> str:
    return "non-empty " if any(isinstance(item, MinLen) for item in metadata) else ""


def _bound(item: Any) -> list[tuple[str, str]]:
    return [_BOUNDS[type(item)]] if type(item) in _BOUNDS else []


def nearest(key: str, known: Collection[str]) -> list[str]:
    """The keys that a wrong key may have meant, the likeliest first; none where nothing is like it.

    A key whose last part exists is taken to be in the wrong or a misspelt section; any other is compared letter by
    letter, its last part only where its section is right.

    >>> nearest("rolout.top_p", ["rollout.top_p", "rollout.top_k", "evaluation.top_p"])
    ['rollout.top_p']
    """
    key = key.lower()
    section, _, name = key.rpartition(".")
    homes = [candidate for candidate in known if candidate.rpartition(".")[2] == name]
    if homes:
        scores = {candidate: _ratio(section, candidate.rpartition(".")[0]) for candidate in homes}
        cutoff = max(scores.values()) if max(scores.values()) >= _SAME_SECTION else 0.0
    else:
        scores = {candidate: _likeness(key, candidate) for candidate in known}
        cutoff = max([_SIMILAR, *scores.values()])
    best = sorted((candidate for candidate in scores if scores[candidate] >= cutoff), key=lambda c: -scores[c])
    return best[:_MOST_SUGGESTIONS]


def _likeness(key: str, candidate: str) -> float:
    section, _, name = key.rpartition(".")
    known_section, _, known_name = candidate.rpartition(".")
    return _ratio(name, known_name) if section in ("", known_section) else _ratio(key, candidate) - _PENALTY


def _ratio(left: str, right: str) -> float:
    return SequenceMatcher(None, left, right).ratio()
