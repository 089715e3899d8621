"""The settings of a run that is submitted: a path must mean there what it means here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mars.config.schema import SftConfig, TrainConfig
from mars.errors import ConfigError
from mars.output.secrets import secret_values
from mars.plugin import is_spec

# Files and folders that must be on storage of all nodes: relative paths start at the folder of the command.
_SHARED = ("run.dir", "data.image_root", "data.train_files", "data.eval_files")
# Either a folder or a name of the hub: a folder if there is one here.
_MODELS = ("model.path", "algorithm.kl_reference")
# Files of the user that are sent along. One outside the folder of the command must be on shared storage.
_FUNCTIONS = ("reward.function", "reward.functions")
_TEMPLATE = "data.template"


def check_cluster(config: TrainConfig | SftConfig) -> None:
    """Raises ConfigError for settings that a job on a cluster cannot have."""
    if config.cluster.kind != "ray":
        raise ConfigError(
            f"cluster.kind: a submitted run uses the cluster; got {config.cluster.kind}; set cluster=ray, or run "
            "`python -m mars.main` without submitting"
        )
    if config.cluster.address is not None:
        raise ConfigError(
            f"cluster.address: ray_submit.sh sets it; got {config.cluster.address}; leave it out, and give --address"
        )


def sent_settings(config: TrainConfig | SftConfig, folder: Path) -> dict[str, Any]:
    """The configuration that is sent: the cluster is that of the job, and paths are those that `folder` gives them.

    Raises ConfigError for a file of the user that is not there, and for a secret among the settings.
    """
    settings = config.model_dump()
    dotted = config.dotted()
    for key in dotted:
        value = _value(key, dotted[key], folder)
        section, _, name = key.rpartition(".")
        _section(settings, section)[name] = value
        _refuse_secret(key, value, os.environ)
    settings["cluster"]["address"] = "auto"
    return settings


def _value(key: str, value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_value(key, item, folder) for item in value]
    if isinstance(value, dict):
        return {name: _value(key, item, folder) for name, item in value.items()}
    if not isinstance(value, str):
        return value
    if key in _SHARED:
        return _absolute(value, folder)
    if key in _MODELS:
        return _absolute(value, folder) if (folder / Path(value).expanduser()).is_dir() else value
    if key in _FUNCTIONS and is_spec(value):
        file, _, name = value.rpartition(":")
        return f"{_file_of_user(key, file, folder)}:{name}"
    if key == _TEMPLATE and value.endswith(".jinja"):
        return _file_of_user(key, value, folder)
    return value


def _absolute(path: str, folder: Path) -> str:
    return os.path.normpath(folder / Path(path).expanduser())


def _file_of_user(key: str, path: str, folder: Path) -> str:
    """Relative to `folder` if it is in there, since the job's folder has a copy."""
    file = Path(_absolute(path, folder))
    if not file.is_file():
        raise ConfigError(f"{key}: no such file; got {path}; relative paths start at {folder}")
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)


def _section(settings: dict[str, Any], dotted: str) -> dict[str, Any]:
    for name in dotted.split("."):
        settings = settings[name]
    return settings


def _refuse_secret(key: str, value: Any, environment: Mapping[str, str]) -> None:
    for secret, name in secret_values(environment).items():
        if secret in str(value):
            raise ConfigError(
                f"{key}: it has the value of the environment variable {name}, and settings are written to files; keep "
                f"it in the variable, and give --env {name}"
            )
