"""Compositions of configs/ for tests that need a configuration and do not test how Hydra makes one.

Hydra takes 0.1 s for a composition, and the unit tests ask for several hundred that differ in a few values only.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from mars.config import compose

ROOT = Path(__file__).parents[1]
real_compose = compose._compose


def quick_compose(root: str, folders: Sequence[Path], overrides: Sequence[str]):
    """Does what `mars.config.compose._compose` does, but composes each choice of groups once and sets values on a copy.

    Hydra also composes groups first, then merges the experiments, and then sets values. Where the result could differ,
    the real function runs: for folders that a test makes and may change, for values of a whole section, and for
    everything that fails.
    """
    parser = OverridesParser.create()
    parsed = [parser.parse_override(text) for text in overrides]
    values = [one for one in parsed if "." in one.key_or_group or isinstance(one.value(), list)]
    choices = [override for override in parsed if override not in values]
    shipped = all(folder.is_relative_to(ROOT) for folder in folders)
    if shipped and all(isinstance(choice.value(), str) for choice in choices):
        composed = _pickled(root, tuple(folders), tuple((one.key_or_group, one.input_line) for one in choices))
        if composed is not None:
            try:
                config = pickle.loads(composed)  # noqa: S301 - made here
                ConfigLoaderImpl._apply_overrides_to_config(values, config)
                return config, None
            except (HydraException, OmegaConfBaseException):
                pass
    return real_compose(root, folders, overrides)


@cache
def _pickled(root: str, folders: tuple[Path, ...], choices: tuple[tuple[str, str], ...]) -> bytes | None:
    """What `_composed` returns; reading it takes a quarter of the time of a copy."""
    composed = _composed(root, folders, choices)
    return None if composed is None else pickle.dumps(composed)


@cache
def _composed(root: str, folders: tuple[Path, ...], choices: tuple[tuple[str, str], ...]) -> DictConfig | None:
    """The configuration of these (group, override), with an experiment merged on a copy of the one without it."""
    chosen = dict(choices)
    experiment = chosen.pop("experiment", "").partition("=")[2]
    if not experiment and (with_groups := tuple(folder for folder in folders if _has_groups(folder))) != folders:
        return _composed(root, with_groups, choices)
    if not experiment:
        return real_compose(root, folders, [override for _, override in choices])[0]
    files = _files(experiment, (compose.shipped_folder(), *folders))
    if files is None or len(chosen) < len(choices) - 1:
        return real_compose(root, folders, [override for _, override in choices])[0]
    groups = {group: f"{group}={choice}" for content in files for group, choice in _groups(content).items()}
    composed = _composed(root, folders, tuple(sorted((groups | chosen).items())))
    if composed is None:
        return None
    config = deepcopy(composed)
    with open_dict(config):
        for content in files:
            config.merge_with(OmegaConf.create({key: value for key, value in content.items() if key != "defaults"}))
    return config


@cache
def _has_groups(folder: Path) -> bool:
    return any(file.parent.name != "experiment" for file in folder.glob("*/*.yaml"))


@cache
def _files(experiment: str, folders: tuple[Path, ...]) -> list[dict[str, Any]] | None:
    """The files of an experiment, those that it is based on first. None if Hydra must read them."""
    found = [path for folder in folders if (path := folder / "experiment" / f"{experiment}.yaml").is_file()]
    if len(found) != 1:
        return None
    content = yaml.load(found[0].read_text(encoding="utf-8"), yaml.CSafeLoader)
    defaults = [entry for entry in content.get("defaults", []) if entry != "_self_"]
    bases = [_files(entry, folders) for entry in defaults if isinstance(entry, str)]
    if None in bases or "_self_" in content.get("defaults", [])[:-1]:
        return None
    return [*(file for base in bases for file in base), content]


def _groups(content: dict[str, Any]) -> dict[str, str]:
    entries = [entry for entry in content.get("defaults", []) if isinstance(entry, dict)]
    return {key.removeprefix("override /"): choice for entry in entries for key, choice in entry.items()}
