"""Tiny models, and a folder with the files of a small run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.workshop import Workshop


@pytest.fixture(scope="session")
def workshop(tmp_path_factory) -> Workshop:
    from mars.data.synthetic.tiny_model import build_tiny
    from mars.data.synthetic.write import SetSizes, write_synthetic
    from tests.unit.data.convert.small_sets import run_convert

    folder = tmp_path_factory.mktemp("workshop")
    build_tiny(folder / "model", seed=2)
    sizes = SetSizes(train=12, test=4, cold_start=0)
    write_synthetic(folder / "data" / "scenes", seed=3, sizes=sizes, bias=0.5)
    run_convert(folder / "data", "llvip", folder / "data" / "scenes")
    return Workshop(folder)


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
def tiny_qwen3_5(tmp_path_factory, one_thread) -> Path:
    """A random Qwen3.5."""
    from mars.data.synthetic.tiny_model import build_tiny

    return build_tiny(tmp_path_factory.mktemp("tiny") / "qwen3_5", seed=7, family="qwen3_5")


@pytest.fixture(scope="session")
def tiny_qwen2(tmp_path_factory, one_thread) -> Path:
    """A random Qwen2-VL."""
    from mars.data.synthetic.tiny_model import build_tiny

    return build_tiny(tmp_path_factory.mktemp("tiny") / "qwen2_vl", seed=8, family="qwen2_vl")


@pytest.fixture(scope="session")
def tiny_internvl(tmp_path_factory, one_thread) -> Path:
    """A random InternVL."""
    from mars.data.synthetic.tiny_model import build_tiny

    return build_tiny(tmp_path_factory.mktemp("tiny") / "internvl", seed=6, family="internvl")


@pytest.fixture(scope="session")
def world(tiny, process_group):
    from tests.tiny_world import TinyWorld

    return TinyWorld(tiny)


@pytest.fixture(scope="session")
def qwen3_world(tiny_qwen3, process_group):
    from tests.tiny_world import TinyWorld

    return TinyWorld(tiny_qwen3)


@pytest.fixture(scope="session")
def qwen3_5_world(tiny_qwen3_5, process_group):
    from tests.tiny_world import TinyWorld

    return TinyWorld(tiny_qwen3_5)


@pytest.fixture(scope="session")
def qwen2_world(tiny_qwen2, process_group):
    from tests.tiny_world import TinyWorld

    return TinyWorld(tiny_qwen2)


@pytest.fixture(scope="session")
def internvl_world(tiny_internvl, process_group):
    from tests.tiny_world import TinyWorld

    return TinyWorld(tiny_internvl)


@pytest.fixture(scope="session")
def tied_world(tiny_tied, process_group):
    from tests.tiny_world import TinyWorld

    return TinyWorld(tiny_tied)
