"""Look at a configuration: what each setting means, which value it has, and where the value comes from."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from mars.config.compose import (
    Composition,
    compose_files,
    compose_saved,
    config_folder,
    merged_files,
    resolved_leaves,
)
from mars.config.folders import CONFIG_FILE, groups, how_to_add, shipped_folder
from mars.config.keys import expected, is_in, leaves, mappings, sections_of
from mars.config.load import SCHEMAS, RootName, read_saved, refusal
from mars.config.overrides import EXPERIMENT, unknown_key
from mars.config.paths import given_path
from mars.config.problem import Problem
from mars.errors import ConfigError

NOT_SET = "???"
"""Stands for the value of a setting that has none, as in files."""

_WIDTH = 80


@dataclass(frozen=True)
class Named:
    """The configuration that the words of a command choose (see `named`).

    title: for a heading. values: dotted key -> value, interpolations resolved; NOT_SET for what is not set.
    sources: dotted key -> the file or the override that sets it.
    """

    title: str
    root: RootName
    values: Mapping[str, Any]
    sources: Mapping[str, str]


@dataclass(frozen=True)
class Setting:
    """default: as it is written in configs/, None if there is none. value: None if it is not set. Both are YAML on one
    line. source: the file or the override that sets the value, None without a value.
    """

    key: str
    meaning: str
    takes: str
    default: str | None
    value: str | None
    source: str | None


def named(words: Sequence[str], config_dirs: Sequence[str], root: RootName) -> Named:
    """The configuration that a command's words choose.

    words: a run directory or the name of an experiment, then overrides. Each of these may be left out.

    root: the kind of job (training or cold start) whose defaults are used; not for a run directory, which says its kind
    itself. Raises ConfigError.

    Examples: [], ["anchor=none"], ["quickstart", "anchor=none"], ["runs/mars"].
    """
    first = words[0] if words and "=" not in words[0] else None
    if first is not None and (Path(given_path(first)) / CONFIG_FILE).is_file():
        return _saved(Path(given_path(first)) / CONFIG_FILE, words)
    folders = [shipped_folder(), *map(config_folder, config_dirs)]
    overrides = list(words)
    if first is not None:
        experiments = groups(root, folders)[EXPERIMENT]
        if first not in experiments:
            do = f"give one of {', '.join(experiments)}, a folder with a {CONFIG_FILE}, or key=value; "
            do += how_to_add(EXPERIMENT, first)
            raise ConfigError(str(Problem("CONFIG", "neither an experiment nor a run directory", do, got=first)))
        overrides[0] = f"{EXPERIMENT}={first}"
    composition = compose_files(root, SCHEMAS[root], overrides, config_dirs)
    values = _values(composition)
    return Named(
        " ".join(overrides) or "the defaults", root, values, _sources(root, composition, folders, values, overrides)
    )


def settings(chosen: Named) -> list[Setting]:
    """All settings, in the order of docs/config.md."""
    defaults = compose_files(chosen.root, SCHEMAS[chosen.root], [], []).config
    assert defaults is not None  # the shipped files
    known = leaves(SCHEMAS[chosen.root])
    found, written = [], written_defaults(defaults, known)
    for key, field in known.items():
        value = chosen.values.get(key, NOT_SET)
        shown, source = (None, None) if value == NOT_SET else (on_one_line(value), chosen.sources.get(key))
        meaning = " ".join((field.description or "").split())
        found.append(Setting(key, meaning, expected(field), written[key], shown, source))
    return found


def search(text: str, chosen: Named, config_dirs: Sequence[str] = ()) -> list[Setting]:
    """The setting named `text` or, if there is none, the settings with all words of `text` in their name or meaning.

    Settings with a word in their name come first. Raises ConfigError, with a suggestion, if nothing is found.
    """
    every, words = settings(chosen), text.lower().split()
    exact = [setting for setting in every if setting.key == text.strip()]
    found = [one for one in every if all(word in f"{one.key} {one.meaning}".lower() for word in words)]
    found.sort(key=lambda one: not any(word in one.key.lower() for word in words))
    if exact or (found and words):
        return exact or found
    known = compose_files(chosen.root, SCHEMAS[chosen.root], [], config_dirs).known
    problem = unknown_key(text, None, known)
    raise ConfigError(f"TEXT: no setting has this in its name or description; got {text!r}; {problem.do}")


def differences(a: Named, b: Named) -> dict[str, dict[str, Any]]:
    """Dotted key -> {"a": value, "b": value} of each setting that differs.

    Raises ConfigError if one is a training and the other a cold start.
    """
    if a.root != b.root:
        raise ConfigError(
            f"A, B: one is a training and one a cold start; got {a.title} and {b.title}; give two of one kind"
        )
    keys = [*a.values, *(key for key in b.values if key not in a.values)]
    pairs = {key: {"a": a.values.get(key, NOT_SET), "b": b.values.get(key, NOT_SET)} for key in keys}
    return {key: pair for key, pair in pairs.items() if pair["a"] != pair["b"]}


def recorded(content: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key -> value of the content of a run's config.yaml, and nothing else: no default, no check.

    As in `Named.values`, a setting that is a mapping is one value. A setting that no longer exists has a key too.

    >>> recorded({"recipe": {"sampler": None, "transforms": {"masked": "mask.py:masked"}}})
    {'recipe.sampler': None, 'recipe.transforms': {'masked': 'mask.py:masked'}}
    """
    whole = {key for schema in SCHEMAS.values() for key in mappings(schema)}
    return dict(_recorded(content, "", whole))


def _recorded(content: Mapping[str, Any], prefix: str, whole: Collection[str]) -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value and key not in whole:
            yield from _recorded(value, f"{key}.", whole)
        else:
            yield key, value


def described(chosen: Named) -> str:
    """YAML of all settings; above each, as a comment, what it means and takes."""
    lines: list[str] = []
    opened: list[str] = []
    for setting in settings(chosen):
        *sections, name = setting.key.split(".")
        for depth, section in enumerate(sections):
            if opened[: depth + 1] != sections[: depth + 1]:
                lines.append(f"{'  ' * depth}{section}:")
        opened, indent = sections, "  " * len(sections)
        comment = f"{indent}# "
        lines += textwrap.wrap(
            f"{setting.meaning} ({setting.takes})", _WIDTH, initial_indent=comment, subsequent_indent=comment
        )
        lines.append(f"{indent}{name}: {NOT_SET if setting.value is None else setting.value}")
    return "\n".join([*lines, ""])


def undescribed(chosen: Named) -> str:
    """YAML of all settings, without comments. Settings of an older run that no longer exist are in it too."""
    nested: dict[str, Any] = {}
    for key, value in chosen.values.items():
        *sections, name = key.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return yaml.safe_dump(nested, sort_keys=False, allow_unicode=True)


def written_defaults(config: DictConfig, keys: Iterable[str]) -> dict[str, str | None]:
    """The default of each of these dotted keys as it is written in its file, with unresolved interpolations.

    None for a key without a default. config: composed without overrides.
    """
    content: Any = OmegaConf.to_container(config, resolve=False)
    values = {key: reduce(getitem, key.split("."), content) for key in keys}
    return {key: None if value == NOT_SET else on_one_line(value) for key, value in values.items()}


def on_one_line(value: Any) -> str:
    """A value as YAML on one line.

    >>> on_one_line([1, None]), on_one_line("off")
    ('[1, null]', "'off'")
    """
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()


def _saved(path: Path, words: Sequence[str]) -> Named:
    root, content = read_saved(path)
    composition = compose_saved(root, SCHEMAS[root], content, words[1:])
    values = _values(composition)
    sources = {
        key: str(path) if _holds(content, key) else "the default, because the run has no value" for key in values
    }
    return Named(" ".join(words), root, values, sources | _given(composition, words[1:], values))


def _values(composition: Composition) -> dict[str, Any]:
    """Dotted key -> value. Raises ConfigError if the configuration cannot be composed or resolved."""
    if composition.config is None or composition.problems:
        raise refusal(composition.problems)
    values, problems = resolved_leaves(composition.config, composition.known.mappings)
    if problems:
        raise refusal(problems)
    return {**dict.fromkeys(composition.known.keys, NOT_SET), **values}


def _sources(
    root: RootName, composition: Composition, folders: Sequence[Path], keys: Mapping[str, Any], overrides: Sequence[str]
) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, section in merged_files(root, composition.words):
        file = next(path for folder in folders if (path := folder / f"{name}.yaml").is_file())
        content: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
        for part in reversed(section.split(".") if section else []):
            content = {part: content}
        shown = file.relative_to(shipped_folder().parent) if file.is_relative_to(shipped_folder()) else file
        found |= {key: str(shown) for key in keys if _holds(content, key)}
    return found | _given(composition, overrides, keys)


def _given(composition: Composition, overrides: Sequence[str], keys: Mapping[str, Any]) -> dict[str, str]:
    """Key -> the override that sets it or a value in it. An override of a section sets the keys in the section."""
    found: dict[str, str] = {}
    for text in overrides:
        name = text.lstrip("+~").partition("=")[0]
        set_here = [key for key in composition.given if is_in(key, name)]
        inside = {part for key in set_here for part in (key, *sections_of(key))}
        found |= {key: f"the override {text}" for key in keys if key in inside}
    return found


def _holds(content: Any, key: str) -> bool:
    """Whether a file's content sets the dotted `key`."""
    for name in key.split("."):
        if not isinstance(content, Mapping) or name not in content:
            return False
        content = content[name]
    return True
