"""Compose one configuration from files and overrides with Hydra."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mars.config.faulty_file import faulty_file
from mars.config.folders import folder_problems, groups, quoted, shipped_folder
from mars.config.keys import leaves, mappings, nested_mappings, sections_of
from mars.config.overrides import EXPERIMENT, Known, check_overrides, set_values
from mars.config.paths import given_path
from mars.config.problem import Problem
from mars.config.renamed import renamed_value
from mars.config.section import Root
from mars.plugin import shipped


@dataclass(frozen=True)
class Composition:
    """Hydra's configuration from the files and the valid overrides.

    config: neither resolved nor checked; None if the files cannot be composed.
    words: what Hydra was given: where to look for files, and the valid overrides. Empty for a saved configuration.
    given, has_unknown_option: as in `mars.config.overrides.Overrides`.
    doubtful: as there, and "experiment" if a file of the user is wrong.
    """

    config: DictConfig | None
    words: tuple[str, ...]
    known: Known
    given: frozenset[str]
    doubtful: frozenset[str]
    problems: tuple[Problem, ...]
    has_unknown_option: bool

    def is_doubtful(self, key: str) -> bool:
        """Whether the value of `key` is not the user's, because the override or file that sets it was refused."""
        return key not in self.given and not self.doubtful.isdisjoint((key, *sections_of(key), EXPERIMENT))


def compose_files(root: str, schema: type[Root], overrides: Sequence[str], config_dirs: Sequence[str]) -> Composition:
    """Compose configs/<root>.yaml. Mistakes of the user are returned in `problems`.

    Only a --config-dir that cannot be a path is raised, as ConfigError.
    """
    folders = [Path(os.path.realpath(config_folder(folder))) for folder in config_dirs]
    known = Known(
        tuple(leaves(schema)), groups(root, [shipped_folder(), *folders]), mappings(schema), nested_mappings(schema)
    )
    checked = check_overrides(overrides, known)
    problems = [*folder_problems([shipped_folder(), *folders]), *checked.problems]
    doubtful = set(checked.doubtful)
    words = (_searchpath(folders), *checked.accepted, *checked.choices)
    config, problem = _compose(root, folders, words[1:])
    if problem is not None:
        # A file of the user is wrong: compose without these files, so that the overrides are still checked.
        problems.append(problem)
        doubtful.add(EXPERIMENT)
        config, _ = _compose(root, [], checked.accepted)
    return Composition(
        config, words, known, frozenset(checked.given), frozenset(doubtful), tuple(problems), checked.has_unknown_option
    )


def config_folder(text: str) -> Path:
    """The folder of a --config-dir, which may be one of mars' own recipes. Raises ConfigError."""
    return Path(shipped(given_path(text, "--config-dir")))


def compose_saved(root: str, schema: type[Root], content: Mapping[str, Any], overrides: Sequence[str]) -> Composition:
    """The settings that a run has saved, changed by overrides of keys.

    Overrides of groups are refused: the run saved the keys that its groups set, not the groups.
    A key that the run did not save gets the default in configs/<root>.yaml.
    """
    known = Known(tuple(leaves(schema)), {}, mappings(schema), nested_mappings(schema))
    checked = check_overrides(overrides, known)
    defaults, problem = _compose(root, [], [])
    if defaults is None:
        raise ValueError(str(problem))
    base = deepcopy(defaults)
    OmegaConf.set_struct(base, False)
    for key in known.mappings:
        OmegaConf.update(base, key, {}, merge=False)  # a mapping is replaced, not merged
    config = OmegaConf.merge(base, _literal(content))
    assert isinstance(config, DictConfig)
    for key, value in set_values(checked.accepted):
        OmegaConf.update(config, key, value, merge=key in known.sections)
    return Composition(
        config,
        (),
        known,
        frozenset(checked.given),
        frozenset(checked.doubtful),
        tuple(checked.problems),
        checked.has_unknown_option,
    )


def _literal(value: Any) -> Any:
    """`value`, from a saved configuration, with each "${" escaped.

    Interpolations were resolved before the configuration was saved, so a "${" that it still has is plain text.
    """
    if isinstance(value, Mapping):
        return {name: _literal(held) for name, held in value.items()}
    if isinstance(value, list):
        return [_literal(held) for held in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda match: f"{match[1] * 2}\\${{", value)
    return value


def merged_files(root: str, words: Sequence[str]) -> list[tuple[str, str]]:
    """(file, section) of the files that Hydra merges for these `Composition.words`, in this order: a later one wins.

    Example: ("cluster/local", "cluster"), ("train", ""), ("experiment/quickstart", "").
    """
    with initialize_config_dir(str(shipped_folder()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        merged = loader.compute_defaults_list(root, list(words), RunMode.RUN).defaults
    files = [(entry.config_path, entry.package or "") for entry in merged if entry.config_path is not None]
    return [(file, section) for file, section in files if not file.startswith("hydra/")]


def _searchpath(folders: Sequence[Path]) -> str:
    return f"hydra.searchpath=[{','.join(quoted(str(folder)) for folder in folders if folder.is_dir())}]"


def _compose(root: str, folders: Sequence[Path], overrides: Sequence[str]) -> tuple[DictConfig | None, Problem | None]:
    try:
        with initialize_config_dir(str(shipped_folder()), version_base="1.3"):
            return compose(root, [_searchpath(folders), *overrides]), None
    # Hydra itself raises a ValueError for a file that is not text and for defaults that are not a list, and a
    # RecursionError for files that name each other.
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        return None, _composition_problem(error, [shipped_folder(), *folders], overrides)


def resolved_leaves(config: DictConfig, mappings: Collection[str]) -> tuple[dict[str, Any], list[Problem]]:
    """Dotted key -> plain value, interpolations resolved; keys that are not set (???) are left out.

    mappings: the keys whose value is a mapping; its entries do not become keys of their own.
    """
    values: dict[str, Any] = {}
    problems: list[Problem] = []

    def resolve(node: DictConfig, prefix: str) -> None:
        for name in node:
            key = f"{prefix}{name}"
            if "." in str(name):
                problems.append(Problem(key, "keys in a file must not have a dot", "write nested keys"))
                continue
            if OmegaConf.is_missing(node, name):
                continue
            try:
                value = node[name]
                if isinstance(value, DictConfig) and len(value) and key not in mappings:
                    resolve(value, f"{key}.")
                elif OmegaConf.is_config(value):
                    values[key] = OmegaConf.to_container(value, resolve=True, throw_on_missing=True)
                else:
                    values[key] = value
            except OmegaConfBaseException as error:
                problems.append(_unresolved(key, str(error).partition("\n")[0]))

    resolve(config, "")
    return values, problems


def _unresolved(key: str, reason: str) -> Problem:
    """The problem of an interpolation. reason: OmegaConf's message.

    OmegaConf takes ${HOME} for a reference to a setting HOME. So if an environment variable has this name, the remedy
    is to write ${oc.env:HOME}.
    """
    variable = re.search(r"Interpolation key '(\w+)' not found", reason)
    if "interpolation type env" in reason or (variable is not None and variable[1] in os.environ):
        name = variable[1] if variable is not None else "NAME"
        remedy = f"write ${{oc.env:{name}}} for an environment variable"
    else:
        remedy = "correct the ${...} in it, or set what it refers to"
    return Problem(key, f"cannot be resolved ({reason})", remedy)


def _composition_problem(error: Exception, folders: Sequence[Path], overrides: Sequence[str]) -> Problem:
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).lstrip("/").rpartition("/")
        renamed = renamed_value(group, choice)
        do = f"renamed to {renamed}; " if renamed else ""
        do += f"the choices are {', '.join(error.options)}" if error.options else "there is no such group"
        return Problem(
            "defaults", "an experiment or group file names a file that does not exist", do, error.missing_cfg_file
        )
    fault = faulty_file(folders, overrides)
    if fault is not None:
        return fault
    do = "correct the file"
    if isinstance(error, HydraException):
        do += "; in `defaults`, a group is changed with `- override /group: choice`"
    return Problem("configuration files", f"cannot be composed ({error})", do)
