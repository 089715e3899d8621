"""The overrides of a command line, each looked at before Hydra composes, so that all mistakes are seen at once."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from mars.config.keys import nearest
from mars.config.problem import Problem
from mars.config.verl_names import translation

EXPERIMENT = "experiment"
_KEY = re.compile(r"[+~]*([\w./]+)")
_QUOTE = "write key=value; quote a value with special characters: 'run.name=\"a=b\"'"


@dataclass(frozen=True)
class Known:
    """keys: the dotted keys of the schema. groups: group -> its choices, which are file names without .yaml.

    mappings: the keys whose value is a mapping with names of the user's own.
    """

    keys: Sequence[str]
    groups: Mapping[str, Sequence[str]]
    mappings: Collection[str]

    def section(self, key: str) -> list[str]:
        """The keys of the section that `key` is or is in."""
        return [known for known in self.keys if section_of(known) == section_of(key)]


@dataclass
class Overrides:
    """accepted: overrides of keys, for Hydra. given: the keys they set. choices: overrides of groups, for Hydra.

    doubtful: keys and groups whose value was meant to be another one: what else is said about them would mislead.
    """

    accepted: list[str] = field(default_factory=list)
    choices: list[str] = field(default_factory=list)
    given: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    doubtful: set[str] = field(default_factory=set)


def section_of(key: str) -> str:
    return key.partition(".")[0]


def check_overrides(texts: Sequence[str], known: Known) -> Overrides:
    """Sort the overrides into usable ones and problems. Of several choices for a group the last counts."""
    result, choices = Overrides(), {}
    for text in texts:
        try:
            override = OverridesParser.create().parse_override(text)
            value = None if override.is_sweep_override() else override.value()
        except HydraException as error:
            _refuse_syntax(result, text, error)
            continue
        key = override.key_or_group
        problems = _problems(override, key, value, known)
        if problems:
            result.problems += problems
            result.doubtful |= {key, *meant(key, known)}
        elif key in known.groups and not isinstance(value, dict):
            choices[key] = text
        elif key in known.mappings and isinstance(value, dict):
            result.accepted += [f"~{key}", f"++{text.lstrip('+')}"]  # Hydra would merge it, and refuse new names
            result.given.add(key)
        else:
            result.accepted.append(text)
            result.given |= set(flat(value, key))
    result.choices += choices.values()
    return result


def unknown_key(key: str, value: Any, known: Known) -> Problem:
    """A key that does not exist: verl's name translated, or the nearest key, or what its section has."""
    if section_of(key) == EXPERIMENT:
        return Problem(key, "an experiment's keys are not its own", "begin its file with the line # @package _global_")
    if known.section(key) and "." not in key:
        return Problem(key, "a section, not a value", f"set one of {', '.join(known.section(key))}", got=value)
    for mapping in known.mappings:
        if key.startswith(f"{mapping}."):
            name = key.removeprefix(f"{mapping}.")
            return Problem(key, f"a part of {mapping}", f"write {mapping}={{{name}: ...}}", got=value)
    translated = translation(key, known.keys)
    if translated is not None and translated.startswith("- "):
        return Problem(key, "verl's name for what mars has no key for", f"leave it out: {translated[2:]}", got=value)
    if translated is not None:
        return Problem(key, "verl's name", f"use {translated}", got=value)
    likely = _likely(key, known)
    if likely:
        return Problem(key, "unknown key", f"did you mean {' or '.join(likely)}?", got=value)
    names = ", ".join(sibling.partition(".")[2] for sibling in known.section(key))
    do = f"the keys of {section_of(key)} are {names}" if names else "docs/config.md lists all keys"
    return Problem(key, "unknown key", do, got=value)


def meant(key: str, known: Known) -> list[str]:
    """The keys and groups that an unknown key may have stood for."""
    translated = translation(key, known.keys)
    if translated is not None:
        return [word for word in translated.split() if word in known.keys]
    return _likely(key, known)


def _likely(key: str, known: Known) -> list[str]:
    return nearest(key, known.keys if "." in key else [*known.keys, *known.groups])


def flat(value: Any, key: str) -> dict[str, Any]:
    """{"a": {"b": 1}} under "x" -> {"x.a.b": 1}; anything but a filled mapping is a value."""
    if not isinstance(value, dict) or not value:
        return {key: value}
    return {name: leaf for part, held in value.items() for name, leaf in flat(held, f"{key}.{part}").items()}


def _refuse_syntax(result: Overrides, text: str, error: HydraException) -> None:
    if text.startswith("-"):
        do = "the options are --config-dir, --cfg and --dry-run; a setting is written key=value, without dashes"
        result.problems.append(Problem(text, "no such option", do))
        return
    match = _KEY.match(text)
    result.doubtful |= {match[1]} if match else set()
    reason = str(error).removeprefix(f"Error parsing override '{text}'").partition("\nSee https")[0]
    reason = " ".join(reason.replace("^", "").split()).partition(" expecting {")[0]
    result.problems.append(Problem(f"override {text!r}", f"malformed ({reason})", _QUOTE))


def _problems(override: Override, key: str, value: Any, known: Known) -> list[Problem]:
    """What is wrong with one override whose syntax is right; empty if nothing."""
    is_section = key in map(section_of, known.keys)
    if not key:
        return [Problem(f"override {override.input_line!r}", "no key before =", _QUOTE)]
    if section_of(key.partition("/")[0]) == "hydra":
        return [Problem(key, "Hydra's own settings have no effect here", "leave it out; --config-dir adds a folder")]
    if override.package is not None:
        return [Problem(f"{key}@{override.package}", "groups cannot be moved", f"write {key}=...", got=value)]
    if override.is_sweep_override():
        return [Problem(key, "a sweep, but a run takes one value", _QUOTE, got=override.input_line)]
    if key not in known.keys and key not in known.groups and not is_section:
        return [unknown_key(key, value, known)]
    if override.is_delete():
        return [Problem(key, "cannot be removed, everything has a value", "give it another value")]
    choice = key in known.groups and not isinstance(value, dict)
    if override.is_add() or (choice and override.is_force_add()):
        return [Problem(key, "exists already, + is for what does not", "leave out the +", got=value)]
    if key in known.mappings and not isinstance(value, dict):
        return [Problem(key, "wrong type", f"give a mapping, such as {key}={{name: ...}}", got=value)]
    if key in known.keys and key not in known.mappings and isinstance(value, dict):
        return [Problem(key, "wrong type, it has no keys of its own", "give a value", got=value)]
    if is_section and isinstance(value, dict) and value:
        return [unknown_key(name, held, known) for name, held in flat(value, key).items() if name not in known.keys]
    if key in known.groups:
        return _choice_problems(key, value, known.groups[key])
    return [unknown_key(key, value, known)] if is_section else []


def _choice_problems(group: str, value: Any, choices: Sequence[str]) -> list[Problem]:
    problems = []
    for choice in value if isinstance(value, list) else [value]:
        if choice not in choices:
            close = get_close_matches(str(choice), choices, n=1)
            do = f"did you mean {close[0]}? " if close else ""
            do += f"the choices are {', '.join(choices)}" if choices else "there are no choices here"
            problems.append(Problem(group, "no such choice", do, got=choice))
    return problems
