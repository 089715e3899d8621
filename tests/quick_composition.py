"""Compositions of configs/ for tests that need a configuration and do not test how Hydra makes one.

Hydra takes 0.1 s for a composition, and the unit tests ask for several hundred that differ in a few values only.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from mars.config import compose

ROOT = Path(__file__).parents[1]
real_compose = compose._compose
base = cache(real_compose)


def quick_compose(root: str, folders: Sequence[Path], overrides: Sequence[str]):
    """Does what `mars.config.compose._compose` does, but composes each choice of groups once and sets values on a copy.

    Hydra also composes groups first and then sets values. Where the result could differ, the real function runs: for
    folders that a test makes and may change, for values of a whole section, and for everything that fails.
    """
    parser = OverridesParser.create()
    parsed = [parser.parse_override(text) for text in overrides]
    values = [override for override in parsed if "." in override.key_or_group]
    choices = [override for override in parsed if override not in values]
    shipped = all(folder.is_relative_to(ROOT) for folder in folders)
    if shipped and all(isinstance(choice.value(), str) for choice in choices):
        composed, problem = base(root, tuple(folders), tuple(choice.input_line for choice in choices))
        if problem is None:
            try:
                config = deepcopy(composed)
                ConfigLoaderImpl._apply_overrides_to_config(values, config)
                return config, None
            except (HydraException, OmegaConfBaseException):
                pass
    return real_compose(root, folders, overrides)
