"""What makes the unit tests quick, and commands in this process."""

from __future__ import annotations

import gc
import logging
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: the machine is shared

from collections.abc import Callable
from functools import cache, partial
from subprocess import CompletedProcess

import pytest

_log = logging.getLogger("mars")


def pytest_collection_finish():
    """What the imports made stays: the collector need not look through a million objects again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 10)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """A run of mars in this process adds its log; the next test must not write to it."""
    handlers, level = list(_log.handlers), _log.level
    result = yield
    _restore_log(handlers, level)
    return result


def _restore_log(handlers: list[logging.Handler], level: int) -> None:
    for handler in set(_log.handlers) - set(handlers):
        _log.removeHandler(handler)
        handler.close()
    _log.setLevel(level)


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
    handlers, level = list(_log.handlers), _log.level

    def call(function: Callable[[], object], *arguments: str) -> CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["mars", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            function()
        _restore_log(handlers, level)
        return CompletedProcess(arguments, end.value.code, *capfd.readouterr())

    return call


@pytest.fixture
def mars(ended):
    """`mars ARGUMENTS` in this process -> CompletedProcess."""
    from mars.cli.main import main

    return partial(ended, main)
