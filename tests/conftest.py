"""What all tests share: commands in this process, some pictures, one process group."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable
from functools import cache, partial
from subprocess import CompletedProcess

import pytest
from hypothesis import settings

from mars.types import ImageRef
from tests.examples import register_profiles

# torch looks up the names of addresses: a name server that does not answer would cost 5 s each time. The C library
# reads this once, so it is set before anything is looked up.
os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")

_log = logging.getLogger("mars")

register_profiles()
settings.load_profile("quick")  # --hypothesis-profile wins


def pytest_collection_finish():
    """What the imports made stays: the collector need not look through a million objects again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 10)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """A run of mars in this process adds its log; the next test must not write to it."""
    _propagate(len(logging.root.manager.loggerDict))
    handlers, level = list(_log.handlers), _log.level
    result = yield
    _restore_log(handlers, level)
    return result


@cache
def _propagate(num_loggers: int) -> None:
    """Let torch's loggers propagate. It has 44 that do not, and pytest puts its handlers on each, twelve times a test.

    Cached by the number of loggers: it does something only after new ones were made.
    """
    for name, logger in logging.root.manager.loggerDict.items():
        if name.partition(".")[0] == "torch" and isinstance(logger, logging.Logger):
            logger.propagate = True


def _restore_log(handlers: list[logging.Handler], level: int) -> None:
    for handler in set(_log.handlers) - set(handlers):
        _log.removeHandler(handler)
        handler.close()
    _log.setLevel(level)


@pytest.fixture(scope="session")
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> list[ImageRef]:
    """Four files of noise in different sizes."""
    import numpy as np
    from PIL import Image

    folder, noise = tmp_path_factory.mktemp("pictures"), np.random.default_rng(11)
    refs = []
    for i, (width, height) in enumerate([(64, 48), (56, 56), (96, 40), (30, 70)]):
        path = folder / f"{i}.png"
        Image.fromarray(noise.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        refs.append(ImageRef(str(path), (width, height)))
    return refs


@pytest.fixture(scope="session")
def process_group(one_thread):
    """One gloo process: trainers made in the session share it."""
    import torch.distributed as dist

    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


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
