"""Configurations of a training for the tests of the rules between settings."""

from __future__ import annotations

import pytest

from mars.config.load import load_config
from mars.config.schema import TrainConfig
from mars.errors import ConfigError


def load_training(*overrides: str) -> TrainConfig:
    """The default configuration with `overrides`, and with one file of rows, which is not opened."""
    return load_config("train", ["data.train_files=[a.parquet]", *overrides], [])


def assert_refused(overrides: list[str], start: str) -> None:
    """`overrides` are refused with one problem, whose line begins with `start`."""
    with pytest.raises(ConfigError) as refused:
        load_training(*overrides)
    (line,) = str(refused.value).splitlines()
    assert line.startswith(start)
