"""The dotted keys of a schema, the values that each takes, and the key that a misspelt key stands for.

A dotted key consists of the names of its sections and of the setting: "rollout.vllm.block_size".
"""

from __future__ import annotations

import types
from collections.abc import Collection, Iterable
from difflib import SequenceMatcher
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic.fields import FieldInfo

from mars.config.section import Section

_NAMES = {
    int: "integer",
    float: "number",
    str: "text",
    bool: "true or false",
    types.NoneType: "null",
    Any: "any value",
}
_BOUNDS = {Gt: ("gt", ">"), Ge: ("ge", ">="), Lt: ("lt", "<"), Le: ("le", "<=")}
_SIMILAR = 0.6
_SAME_SECTION = 0.5
_PENALTY = 0.1
_MOST_SUGGESTIONS = 3


def leaves(schema: type[Section]) -> dict[str, FieldInfo]:
    """Dotted key -> field, in the order of the schema, for every setting that is not itself a section."""
    found: dict[str, FieldInfo] = {}
    for name, field in schema.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            found |= {f"{name}.{key}": leaf for key, leaf in leaves(inner).items()}
        else:
            found[name] = field
    return found


def sections_of(key: str) -> list[str]:
    """The sections that contain a key, the outermost first.

    >>> sections_of("rollout.vllm.block_size")
    ['rollout', 'rollout.vllm']
    """
    parts = key.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts))]


def is_in(key: str, *sections: str) -> bool:
    """Whether the key is one of `sections`, or inside one: actor.lora and actor.lora.rank are in actor.lora."""
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def mappings(schema: type[Section]) -> frozenset[str]:
    """The keys whose value is a mapping with names that the user chooses."""
    return frozenset(key for key, field in leaves(schema).items() if get_origin(field.annotation) is dict)


def nested_mappings(schema: type[Section]) -> frozenset[str]:
    """The `mappings` whose values are mappings themselves."""
    fields = leaves(schema)
    return frozenset(key for key in mappings(schema) if get_origin(get_args(fields[key].annotation)[1]) is dict)


def expected(field: FieldInfo) -> str:
    """What a key takes, in words: "integer > 0 or null"."""
    return _words(field.annotation, field.metadata)


def few_values(field: FieldInfo) -> list[str]:
    """All values of a key that has only a few, as they are written on a command line; [] for any other key.

    >>> from mars.config.run_sections import TrackerConfig
    >>> few_values(TrackerConfig.model_fields["project"])
    []
    """
    found: list[str] = []
    arguments = get_args(field.annotation) if get_origin(field.annotation) in (Union, types.UnionType) else ()
    for annotation in arguments or (field.annotation,):
        if annotation is bool:
            found += ["true", "false"]
        elif annotation is types.NoneType:
            found.append("null")
        elif get_origin(annotation) is Literal:
            found += get_args(annotation)
        else:
            return []
    return found


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
        return f"{_filled(metadata)}list of {_words(arguments[0]).removeprefix('one of ')}"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return f"mappings of {', '.join(annotation.model_fields)}"
    if origin is dict:
        return f"mapping of {_words(arguments[0])} to {_words(arguments[1])}"
    bounds = [f"{sign} {getattr(item, name)}" for item in metadata for name, sign in _bound(item)]
    return " ".join([_filled(metadata) + _NAMES[annotation], " and ".join(bounds)]).strip()


def _filled(metadata: Iterable[Any]) -> str:
    return "non-empty " if any(isinstance(item, MinLen) for item in metadata) else ""


def _bound(item: Any) -> list[tuple[str, str]]:
    return [_BOUNDS[type(item)]] if type(item) in _BOUNDS else []


def nearest(key: str, known: Collection[str]) -> list[str]:
    """At most three keys that an unknown one may stand for, the most similar first.

    - If some section has a key of the same name, only the section is wrong. Of the keys of this name, those with the
      most similar section are returned; if no section is similar, all of them.
    - Otherwise, keys of the section that the unknown key gives (all keys, if it gives none) are compared by name alone,
      and other keys by section and name together. If none is similar, the result is empty.

    One letter changes the similarity by about 1 / length. So in the second case, keys that are less similar than the
    best one by at most half of that are returned too: "functiosn" may be "function" or "functions".

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
        compared = name if section in {"", *(candidate.rpartition(".")[0] for candidate in known)} else key
        margin = 1 / (2 * len(compared)) if compared else 0.0
        cutoff = max([_SIMILAR, *(score - margin for score in scores.values())])
    best = sorted((candidate for candidate in scores if scores[candidate] >= cutoff), key=lambda c: -scores[c])
    return best[:_MOST_SUGGESTIONS]


def _likeness(key: str, candidate: str) -> float:
    section, _, name = key.rpartition(".")
    known_section, _, known_name = candidate.rpartition(".")
    return _ratio(name, known_name) if section in ("", known_section) else _ratio(key, candidate) - _PENALTY


def _ratio(left: str, right: str) -> float:
    return SequenceMatcher(None, left, right).ratio()
