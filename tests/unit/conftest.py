"""What makes the unit tests quick, and commands in this process."""

from __future__ import annotations

import logging
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: the machine is shared

from collections.abc import Callable
from functools import cache, partial
from subprocess import CompletedProcess

import pytest


@pytest.fixture(scope="session", autouse=True)
def quick_composition():
    """Configurations come from few compositions; tests/unit/config/test_quick_composition.py compares both ways."""
    from mars.config import compose
    from tests.quick_composition import quick_compose

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compose, "_compose", quick_compose)
        yield


@pytest.fixture(scope="session", autouse=True)
def commands_read_once():
    """Typer reads the annotations of all commands for every call of one, which takes 30 ms."""
    import typer.main
    import typer.testing

    once = cache(typer.main.get_command)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", once)
        patch.setattr(typer.testing, "_get_command", once)
        yield


@pytest.fixture
def ended(capfd, monkeypatch):
    """function, arguments of the process -> the CompletedProcess of a process that calls the function."""
    log = logging.getLogger("mars")
    handlers, level = list(log.handlers), log.level

    def call(function: Callable[[], object], *arguments: str) -> CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["mars", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            function()
        for handler in set(log.handlers) - set(handlers):
            log.removeHandler(handler)
            handler.close()
        log.setLevel(level)
        return CompletedProcess(arguments, end.value.code, *capfd.readouterr())

    return call


@pytest.fixture
def mars(ended):
    """`mars ARGUMENTS` in this process -> CompletedProcess."""
    from mars.cli.main import main

    return partial(ended, main)
