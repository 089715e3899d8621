"""The overrides of a command line, each checked before Hydra composes: Hydra would stop at the first mistake."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from mars.config.folders import how_to_add
from mars.config.keys import nearest, sections_of
from mars.config.problem import Problem
from mars.config.renamed import renamed_key, renamed_value
from mars.config.verl_names import library, translation

EXPERIMENT = "experiment"
_KEY = re.compile(r"[+~]*([\w./]+)")
# A value without quotes, such as a path or a name.
_BARE = re.compile(r"(?<=[=\[,:])( *)((?:[\w./@+~:-]|[^\x00-\x7f])+)(?= *[,\]}]| *$)", re.ASCII)
_QUOTE = "write key=value; quote a value with special characters: 'run.name=\"a=b\"'"


@dataclass(frozen=True)
class Known:
    """keys: the dotted keys of the schema. groups: group -> its choices, which are file names without .yaml.

    mappings: the keys whose value is a mapping with names that the user chooses. nested: the keys whose value is a
    mapping of mappings. An override can set one value in it: `recipe.settings.vl_cogito.stage=s1`.
    """

    keys: Sequence[str]
    groups: Mapping[str, Sequence[str]]
    mappings: Collection[str]
    nested: Collection[str] = ()

    @cached_property
    def sections(self) -> Mapping[str, list[str]]:
        """Section -> all keys in it, including the keys of nested sections."""
        keys: dict[str, list[str]] = {}
        for key in self.keys:
            for section in sections_of(key):
                keys.setdefault(section, []).append(key)
        return keys

    def nested_in(self, key: str) -> str | None:
        """The key of `nested` that `key` lies two names below; None if there is none.

        Example: "recipe.settings.vl_cogito.stage" -> "recipe.settings".
        """
        return next((mapping for mapping in self.nested if re.fullmatch(rf"{mapping}(\.\w+){{2}}", key)), None)


@dataclass
class Overrides:
    """accepted: overrides of keys, for Hydra. given: the keys they set. choices: overrides of groups, for Hydra.

    doubtful: keys, sections and groups that a refused override should have set. Their value is not what the user wants,
        so no other problem is reported for them.
    has_unknown_option: whether a word begins with a dash, so that nobody knows what it should have set.
    """

    accepted: list[str] = field(default_factory=list)
    choices: list[str] = field(default_factory=list)
    given: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)
    doubtful: set[str] = field(default_factory=set)
    has_unknown_option: bool = False


def check_overrides(texts: Sequence[str], known: Known) -> Overrides:
    """Sort the overrides into usable ones and problems. The last choice for a group wins."""
    result, choices = Overrides(), {}
    for text in map(_with_quotes, texts):
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
            # Hydra would merge the mapping into the default one and refuse new names: remove the default first.
            result.accepted += [f"~{key}", f"++{text.lstrip('+')}"]
            result.given.add(key)
        elif known.nested_in(key) is not None:
            result.accepted.append(f"++{text.lstrip('+')}")  # only the user's file tells whether the name exists
            result.given.add(key)
        else:
            result.accepted.append(text)
            result.given |= set(flat(value, key))
    result.choices += choices.values()
    return result


def _with_quotes(text: str) -> str:
    """The override with quotes around values that begin with "~" or have letters beyond ASCII, so that Hydra parses it.

    An override that has quotes already is returned unchanged.

    >>> _with_quotes("data.train_files=[~/a.parquet,/b.parquet,/é.parquet]")
    "data.train_files=['~/a.parquet',/b.parquet,'/é.parquet']"
    """

    def quote(found: re.Match[str]) -> str:
        is_read = found[2].isascii() and not found[2].startswith("~")
        return found[0] if is_read else f"{found[1]}'{found[2]}'"

    return text if "'" in text or '"' in text else _BARE.sub(quote, text)


def set_values(accepted: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """(key, value) of overrides that `check_overrides` has accepted."""
    for text in accepted:
        override = OverridesParser.create().parse_override(text)
        if not override.is_delete():
            yield override.key_or_group, override.value()


def unknown_key(key: str, value: Any, known: Known) -> Problem:
    """The problem of a key that does not exist, with a suggestion: the key's new name, mars' name for a key of verl,
    EasyR1 or TRL, a similar key, or the keys of the section."""
    if key.partition(".")[0] == EXPERIMENT:
        wrong = "the experiment file puts its settings under the key `experiment`, which nothing reads"
        return Problem(key, wrong, "begin its file with the line # @package _global_")
    if key in known.sections:
        return Problem(key, "a section, not a value", f"set one of {', '.join(known.sections[key])}", got=value)
    renamed = renamed_key(key, known.keys)
    if renamed is not None:
        return Problem(key, "renamed", f"use {renamed}", got=value)
    for mapping in known.mappings:
        if key.startswith(f"{mapping}."):
            name = key.removeprefix(f"{mapping}.")
            return Problem(key, f"one entry of {mapping}", f"write {mapping}={{{name}: ...}}", got=value)
    translated = translation(key, known.keys)
    if translated is not None and translated.startswith("- "):
        wrong = f"{library(key)}'s name, and mars has no such setting"
        return Problem(key, wrong, f"leave it out: {translated[2:]}", got=value)
    if translated is not None:
        return Problem(key, f"{library(key)}'s name", f"use {translated}", got=value)
    likely = _likely(key, known)
    if likely:
        return Problem(key, "unknown key", f"did you mean {' or '.join(likely)}?", got=value)
    section = next((section for section in reversed(sections_of(key)) if section in known.sections), None)
    if section is None:
        return Problem(key, "unknown key", "docs/config.md lists all keys", got=value)
    names = ", ".join(sibling.removeprefix(f"{section}.") for sibling in known.sections[section])
    return Problem(key, "unknown key", f"the keys of {section} are {names}", got=value)


def meant(key: str, known: Known) -> list[str]:
    """The keys and groups that the user may have meant by an unknown key."""
    renamed = renamed_key(key, known.keys)
    if renamed is not None:
        return [renamed.partition(" ")[0]]
    translated = translation(key, known.keys)
    if translated is not None:
        return [word for word in translated.split() if word in known.keys]
    return _likely(key, known)


def _likely(key: str, known: Known) -> list[str]:
    return nearest(key, known.keys if "." in key else [*known.keys, *known.groups])


def flat(value: Any, key: str) -> dict[str, Any]:
    """Dotted keys of a nested mapping: {"a": {"b": 1}} under "x" gives {"x.a.b": 1}. An empty mapping is a value."""
    if not isinstance(value, dict) or not value:
        return {key: value}
    return {name: leaf for part, held in value.items() for name, leaf in flat(held, f"{key}.{part}").items()}


def _refuse_syntax(result: Overrides, text: str, error: HydraException) -> None:
    if text.startswith("-"):
        do = "the options are --config-dir, --cfg and --dry-run; a setting is written key=value, without dashes"
        result.problems.append(Problem(text, "no such option", do))
        result.has_unknown_option = True
        match = _KEY.match(text.lstrip("-"))
        result.doubtful |= {match[1]} if match else set()
        return
    match = _KEY.match(text)
    result.doubtful |= {match[1]} if match else set()
    reason = str(error).removeprefix(f"Error parsing override '{text}'").partition("\nSee https")[0]
    reason = " ".join(reason.replace("^", "").split()).partition(" expecting {")[0]
    result.problems.append(Problem(f"override {text!r}", f"malformed ({reason})", _QUOTE))


def _problems(override: Override, key: str, value: Any, known: Known) -> list[Problem]:
    """What is wrong with one override that Hydra can parse; empty if nothing."""
    if not key:
        return [Problem(f"override {override.input_line!r}", "no key before =", _QUOTE)]
    if key.replace("/", ".").partition(".")[0] == "hydra":
        return [Problem(key, "Hydra's own settings have no effect here", "leave it out; --config-dir adds a folder")]
    if override.package is not None:
        return [Problem(f"{key}@{override.package}", "groups cannot be moved", f"write {key}=...", got=value)]
    if override.is_sweep_override():
        return [Problem(key, "several values (a sweep), but a run takes one", _QUOTE, got=override.input_line)]
    if known.nested_in(key) is not None:
        return [Problem(key, "cannot be removed", "give it another value")] if override.is_delete() else []
    if key not in known.keys and key not in known.groups and key not in known.sections:
        return [unknown_key(key, value, known)]
    renamed = renamed_value(key, value)
    if override.is_delete():
        do = f"give it another value; {value} is now {renamed}" if renamed else "give it another value"
        return [Problem(key, "cannot be removed, every key needs a value", do)]
    choice = key in known.groups and not isinstance(value, dict)
    if override.is_add() or (choice and override.is_force_add()):
        do = f"write {key}={renamed}; {value} was renamed" if renamed else "leave out the +"
        return [Problem(key, "exists already, and + adds new keys", do, got=value)]
    if key in known.mappings and not isinstance(value, dict):
        return [Problem(key, "wrong type", f"give a mapping, such as {key}={{name: ...}}", got=value)]
    if key in known.keys and key not in known.mappings and isinstance(value, dict):
        return [Problem(key, "a value, not a mapping", "give one value", got=value)]
    if key in known.sections and isinstance(value, dict) and value:
        return [unknown_key(name, held, known) for name, held in flat(value, key).items() if name not in known.keys]
    if key in known.groups:
        return _choice_problems(key, value, known.groups[key])
    return [unknown_key(key, value, known)] if key in known.sections else []


def _choice_problems(group: str, value: Any, choices: Sequence[str]) -> list[Problem]:
    problems = []
    for choice in value if isinstance(value, list) else [value]:
        if choice not in choices:
            close, renamed = get_close_matches(str(choice), choices, n=1), renamed_value(group, choice)
            do = f"renamed to {renamed}; " if renamed else f"did you mean {close[0]}? " if close else ""
            do += f"the choices are {', '.join(choices)}" if choices else f"{group} has no choices"
            do += f"; {how_to_add(group, str(choice))}"
            problems.append(Problem(group, "no such choice", do, got=choice))
    return problems
