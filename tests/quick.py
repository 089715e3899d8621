"""Fixtures that make the tests of tests/unit and tests/shipped quick. The conftest.py of both folders imports them."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: the machine is shared

from functools import cache

import pytest

__all__ = ["commands_read_once", "quick_composition", "quick_yaml"]


@pytest.fixture(scope="module", autouse=True)
def quick_composition():
    """Configurations come from few compositions; tests/shipped/config/test_quick_composition.py compares both ways."""
    from mars.config import compose
    from tests.quick_composition import quick_compose

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compose, "_compose", quick_compose)
        yield


@pytest.fixture(scope="module", autouse=True)
def quick_yaml():
    """OmegaConf reads YAML with a parser in Python, which takes 5 ms for a file; libyaml's takes 0.5 ms."""
    from omegaconf import _utils

    loader = _quick_loader()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_utils, "get_yaml_loader", lambda: loader)
        yield


@cache
def _quick_loader():
    from omegaconf import _utils
    from yaml.constructor import SafeConstructor
    from yaml.cyaml import CParser
    from yaml.resolver import Resolver

    class QuickLoader(CParser, _utils.get_yaml_loader()):
        def __init__(self, stream):
            CParser.__init__(self, stream)
            SafeConstructor.__init__(self)
            Resolver.__init__(self)

    return QuickLoader


@pytest.fixture(scope="module", autouse=True)
def commands_read_once():
    """Typer reads the annotations of all commands for every call of one, which takes 30 ms."""
    import typer.main
    import typer.testing

    once = _command_reader()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", once)
        patch.setattr(typer.testing, "_get_command", once)
        yield


@cache
def _command_reader():
    import typer.main

    return cache(typer.main.get_command)
