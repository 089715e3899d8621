"""A small world of pictures and tiny models that the tests of rollout, actor and step share."""

from __future__ import annotations

from pathlib import Path

import pytest

from mars.types import ImageRef


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
