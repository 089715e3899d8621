"""The settings of a submitted run. A path must mean the same on the cluster as on this machine."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mars.config.folders import key_of, quoted
from mars.config.paths import ROW_KEYS
from mars.config.recipe_section import HOOKS
from mars.config.schema import SftConfig, TrainConfig
from mars.data.rows.saved import saved_set
from mars.errors import ConfigError
from mars.output.secrets import secret_values
from mars.plugin import find, is_spec

# Files and folders that must be on storage that all nodes share. Relative paths start at the folder of the command.
_SHARED = ("run.dir", "data.image_root")
# A folder if one exists here, else a name on the hub.
_MODELS = ("model.path", "algorithm.kl_reference")
# The user's files that are sent along. A file outside the folder of the command must be on shared storage.
_OF_HOOKS = tuple(f"recipe.{hook}" for hook in HOOKS)
_FUNCTIONS = ("reward.function", "reward.functions", "tracking.to", "anchor.guide_filter", *_OF_HOOKS)
_TEMPLATE = "data.template"
_MEAN_PATHS = (*_SHARED, *ROW_KEYS, *_MODELS, *_FUNCTIONS, _TEMPLATE)
# Shorter values of --env variables are not searched for in the settings, because they may be ordinary words.
_MIN_SECRET_CHARS = 8


@dataclass(frozen=True)
class SentFiles:
    """What a job takes along. folder: the current folder of the user who submits. files: those of its files that are
    sent, as paths relative to it. variables: those of --env."""

    folder: Path
    files: Collection[Path]
    variables: Mapping[str, str] = field(default_factory=dict)


def check_kind(config: TrainConfig | SftConfig) -> None:
    """Raises ConfigError for a run that would not use the cluster."""
    if config.cluster.kind != "ray":
        raise ConfigError(
            f"cluster.kind: a submitted run uses the cluster; got {config.cluster.kind}; set cluster=ray, or run "
            "`python -m mars.main` without submitting"
        )


def check_cluster(config: TrainConfig | SftConfig) -> None:
    """Raises ConfigError for settings that a job on a cluster cannot have."""
    check_kind(config)
    if config.cluster.address is not None:
        raise ConfigError(
            f"cluster.address: ray_submit.sh sets it; got {config.cluster.address}; leave it out, and give --address"
        )


def sent_settings(config: TrainConfig | SftConfig, sent: SentFiles) -> dict[str, Any]:
    """The settings that are sent to the job. `cluster.address` is "auto", which is the cluster that the job runs on.

    Relative paths, which start at the user's folder, become absolute, with two exceptions: a file that is sent along
    has its path relative to that folder, also if its absolute path was given, and a file of mars' own recipes keeps its
    path.

    Raises ConfigError if a file of the user is missing, if it is in the user's folder but not sent, or if a setting
    contains a secret.
    """
    settings = config.model_dump()
    dotted = config.dotted()
    for key in dotted:
        value = _value(key, dotted[key], sent)
        refuse_secret(key, value, sent.variables)
        if key in _MEAN_PATHS:
            section, _, name = key.rpartition(".")
            _section(settings, section)[name] = value
    settings["cluster"]["address"] = "auto"
    return settings


def sent_overrides(overrides: Sequence[str], config: TrainConfig | SftConfig, sent: SentFiles) -> list[str]:
    """`overrides` of a resumed run, with paths as in `sent_settings`.

    config: that of the run, with `overrides` applied.
    """
    settings, found = sent_settings(config, sent), []
    for override in overrides:
        key = key_of(override)
        section, _, name = key.rpartition(".")
        found.append(f"{key}={_written(_section(settings, section)[name])}" if key in _MEAN_PATHS else override)
    return found


def _written(value: Any) -> str:
    """`value` as an override writes it."""
    match value:
        case None:
            return "null"
        case list():
            return f"[{','.join(map(_written, value))}]"
        case dict():
            return "{" + ",".join(f"{name}:{_written(item)}" for name, item in value.items()) + "}"
        case _:
            return quoted(str(value))


def _value(key: str, value: Any, sent: SentFiles) -> Any:
    if isinstance(value, list):
        return [_value(key, item, sent) for item in value]
    if isinstance(value, dict):
        return {name: _value(key, item, sent) for name, item in value.items()}
    if not isinstance(value, str):
        return value
    if key in _SHARED:
        return _absolute(value, sent.folder)
    if key in ROW_KEYS:
        saved = saved_set(value)
        return value if saved is not None and not saved.is_folder else _absolute(value, sent.folder)
    if key in _MODELS:
        return _absolute(value, sent.folder) if (sent.folder / os.path.expanduser(value)).is_dir() else value
    if key in _FUNCTIONS and is_spec(value):
        file, _, name = value.rpartition(":")
        return f"{_file_of_user(key, file, sent)}:{name}"
    if key == _TEMPLATE and value.endswith(".jinja"):
        return _file_of_user(key, value, sent)
    return value


def _absolute(path: str, folder: Path) -> str:
    return os.path.normpath(folder / os.path.expanduser(path))


def _file_of_user(key: str, path: str, sent: SentFiles) -> str:
    """The path of a user's file for the job. A file in the user's folder gets a relative path, because that folder is
    copied to the job's folder. A file elsewhere gets its absolute path. A file of mars' own recipes keeps its path,
    because every node has it.

    Raises ConfigError if the file is missing, or is in the user's folder but not sent.
    """
    file = Path(_absolute(path, sent.folder))
    if not file.is_file() and find(path).is_file():
        return path
    if not file.is_file():
        raise ConfigError(f"{key}: no such file; got {path}; relative paths start at {sent.folder}")
    if not file.is_relative_to(sent.folder):
        return str(file)
    relative = file.relative_to(sent.folder)
    if relative not in sent.files:
        raise ConfigError(
            f"{key}: the file is not sent to the cluster; got {path}; hidden files and folders, links to folders, "
            "results such as runs/, and what --exclude names stay here; move it, or put it on storage of all nodes"
        )
    return relative.as_posix()


def _section(settings: dict[str, Any], dotted: str) -> dict[str, Any]:
    for name in dotted.split("."):
        settings = settings[name]
    return settings


def refuse_secret(key: str, value: Any, variables: Mapping[str, str]) -> None:
    """Raises ConfigError if `value` contains a secret.

    Secrets are the values of `variables`, and of environment variables with a name like WANDB_API_KEY, that have at
    least 8 characters.
    """
    named = {text: name for name, text in variables.items() if len(text) >= _MIN_SECRET_CHARS}
    for secret, name in (secret_values(os.environ) | named).items():
        if secret in str(value):
            raise ConfigError(
                f"{key}: it has the value of the environment variable {name}, and settings are written to files; keep "
                f"it in the variable, and give --env {name}"
            )
