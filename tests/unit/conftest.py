"""A small world of prompts, pictures and tiny models that the tests of rollout, actor and step share."""

from __future__ import annotations

import logging
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: the machine is shared

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from mars.types import ImageRef


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


@pytest.fixture(scope="session")
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, one_thread) -> Path:
    """A random Qwen2.5-VL of a million parameters with untied embeddings."""
    from mars.data.synthetic.tiny_model import build_tiny

    return build_tiny(tmp_path_factory.mktemp("tiny") / "qwen2_5_vl", seed=3)


@pytest.fixture(scope="session")
def tiny_tied(tmp_path_factory, one_thread) -> Path:
    """The same with tied embeddings."""
    from mars.data.synthetic.tiny_model import build_tiny

    return build_tiny(tmp_path_factory.mktemp("tiny") / "tied", seed=4, tie_word_embeddings=True)


@pytest.fixture(scope="session")
def tiny_qwen3(tmp_path_factory, one_thread) -> Path:
    """A random Qwen3-VL."""
    from mars.data.synthetic.tiny_model import build_tiny

    return build_tiny(tmp_path_factory.mktemp("tiny") / "qwen3_vl", seed=5, family="qwen3_vl")


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


@pytest.fixture(scope="session")
def world(tiny, process_group):
    from tests.tiny_world import TinyWorld

    return TinyWorld(tiny)


@pytest.fixture(scope="session")
def qwen3_world(tiny_qwen3, process_group):
    from tests.tiny_world import TinyWorld

    return TinyWorld(tiny_qwen3)


@pytest.fixture(scope="session")
def tied_world(tiny_tied, process_group):
    from tests.tiny_world import TinyWorld

    return TinyWorld(tiny_tied)
