"""Each family against the real model class of transformers."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.data.prompts.budget import ImageBudget, model_image_size
from mars.data.synthetic.tiny_families import Family, build_config
from mars.data.synthetic.tiny_model import build_tokenizer
from mars.families.internvl import Tiles
from mars.families.table import FAMILIES, family_of
from tests.examples import examples


def test_every_family_has_a_tiny_model():
    assert set(get_args(Family)) == set(FAMILIES)


def test_every_family_is_in_the_lists_of_the_tests_that_compare_it():
    from tests.integration import test_engines
    from tests.integration.actor import test_model_weights, test_shared_prefix
    from tests.integration.cluster import test_local_step

    # Fixtures of conftest.py -> family.
    fixtures = {
        "": "qwen2_5_vl", "tied": "qwen2_5_vl", "qwen3": "qwen3_vl", "qwen3_5": "qwen3_5", "qwen2": "qwen2_vl",
        "internvl": "internvl",
    }  # fmt: skip
    folders = {name.removeprefix("tiny").removeprefix("_") for name in test_model_weights.SOURCES}
    assert {fixtures[name] for name in folders} == set(FAMILIES)
    for module in (test_shared_prefix, test_local_step):
        worlds = {name.removesuffix("world").removesuffix("_") for name in module.FAMILIES}
        assert {fixtures[name] for name in worlds} == set(FAMILIES), module.__name__
    on_cpu = {name for name, family in FAMILIES.items() if family.vllm_on_cpu}
    assert {*test_engines.FAMILIES, test_engines.BRIEF} == on_cpu


@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_parts_are_those_of_the_model(model_type):
    """Every weight is below vision, projector or language; the units of FSDP are transformers' own."""
    import torch
    from transformers import AutoModelForImageTextToText

    parts = family_of(model_type, "").parts
    with torch.device("meta"):
        config = build_config(model_type, build_tokenizer("tiny", 0, model_type), tie_word_embeddings=True)
        model = AutoModelForImageTextToText.from_config(config)
    found = {name: {id(p) for p in model.get_submodule(name).parameters()} for name in (*parts.vision, *parts.language)}
    projector = {id(p) for name in parts.projector for p in model.get_submodule(name).parameters()}
    assert all(found.values())
    assert projector
    assert set().union(*found.values(), projector) == {id(p) for p in model.parameters()}
    language = set().union(*(found[name] for name in parts.language))
    vision = set().union(*(found[name] for name in parts.vision)) - projector
    assert vision
    assert not language & (vision | projector)
    classes = {type(module).__name__ for module in model.modules()}
    assert {name for name in parts.layer_classes if name in classes} == set(model._no_split_modules)
    assert parts.tied == model._tied_weights_keys
    state = model.state_dict(keep_vars=True)
    assert all(state[one] is state[other] for one, other in parts.tied.items())
    if parts.patch_embedding is not None:
        assert isinstance(model.get_submodule(parts.patch_embedding), torch.nn.Conv3d)


@given(
    width=st.integers(4, 3000), height=st.integers(4, 3000), least=st.integers(1, 4), more=st.integers(0, 12),
    tile=st.sampled_from([56, 448]),
)  # fmt: skip
@examples(200)
def test_the_canvas_of_tiles_is_that_of_transformers(width, height, least, more, tile):
    from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

    columns, rows = get_optimal_tiled_canvas((height, width), (tile, tile), least, least + more)
    limits = ImageBudget(least * tile**2, (least + more) * tile**2, 14, 2, Tiles(tile))
    assert model_image_size((width, height), limits) == (columns * tile, rows * tile)
