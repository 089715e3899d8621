"""Budgets of single sources: sizes, frames and pixels are those of a processor with the source's own limits."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from transformers import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from mars.checks.answers import answered_perfectly
from mars.data.pixels.images import decode_image, decoded_size
from mars.data.prompts.boxes import BoxFrames
from mars.data.prompts.budget import (
    ImageBudget,
    model_image_size,
    num_image_tokens,
)
from mars.data.prompts.lengths import longest_view
from mars.rewards.functions import load_reward
from mars.types import ImageRef
from tests.examples import examples
from tests.unit.data.prompts.test_source_budgets import OWN, WHOLE, limited, prompt_of

FAMILIES = {"qwen2_5_vl": (14, "resized_pixels"), "qwen3_vl": (16, "norm_1000")}


@pytest.mark.parametrize("size", [(1280, 1024), (1600, 900), (640, 480), (57, 300), (30, 20)])
@pytest.mark.parametrize("family", FAMILIES)
def test_pixels_are_to_the_bit_those_of_a_processor_with_these_limits(tmp_path, size, family):
    patch = FAMILIES[family][0]
    coarse = np.random.default_rng(sum(size)).integers(0, 256, (size[1] // 4 + 1, size[0] // 4 + 1, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR).save(tmp_path / "infrared.png")
    Image.fromarray(coarse).resize(size, Image.Resampling.NEAREST).save(tmp_path / "depth.png")
    budget = ImageBudget(*WHOLE, patch, 2)

    def process(image, low, high):
        limits = {"shortest_edge": low, "longest_edge": high}
        found = Qwen2VLImageProcessor(size=limits, patch_size=patch)(images=[image], return_tensors="pt")
        return found["pixel_values"], found["image_grid_thw"][0].tolist()

    prompt, _ = limited(prompt_of([size] * 3), OWN, budget)
    for source in prompt.sources[1:]:
        stored = ImageRef(str(tmp_path / f"{source.name}.png"), size)
        ref = ImageRef(stored.path, size, resized=source.image.resized)
        expected, grid = process(decode_image(stored), *OWN[source.name])
        pixels, found = process(decode_image(ref), *WHOLE)
        assert found == grid
        assert torch.equal(pixels, expected)
        assert decode_image(ref).size == decoded_size(ref) == (grid[2] * patch, grid[1] * patch)
        assert num_image_tokens(decoded_size(ref), budget) == grid[1] * grid[2] // 4


@examples(200)
@given(st.integers(4, 4000), st.integers(4, 4000), st.sampled_from([14, 16]), st.data())
def test_counts_are_the_processors_for_any_size_and_limits(width, height, patch, data):
    """Narrow limits too, which rounding leaves: then the processor resizes a second time, and that is counted."""
    assume(max(width, height) <= 200 * min(width, height))
    low, high = sorted((data.draw(st.integers(1, 2_000_000)), data.draw(st.integers(1, 2_000_000))))
    own = sorted((data.draw(st.integers(low, high)), data.draw(st.integers(low, high))))
    budget = ImageBudget(low, high, patch, 2)
    prompt, problems = limited(prompt_of([(width, height)], ["infrared"]), {"infrared": own}, budget)
    shown = decoded_size(prompt.sources[0].image)
    once = smart_resize(height, width, factor=2 * patch, min_pixels=own[0], max_pixels=own[1])
    assert shown == once[::-1]
    if max(shown) > 200 * min(shown):
        assert [problem.reason for problem in problems] == ["image_size"]
        return
    assert problems == []
    twice = smart_resize(*once, factor=2 * patch, min_pixels=low, max_pixels=high)
    assert model_image_size(shown, budget) == twice[::-1]
    if own[0] <= once[0] * once[1] <= own[1]:
        assert twice == once


@examples(60)
@given(st.data(), st.sampled_from(sorted(FAMILIES)), st.sampled_from(["original_pixels", "norm_1000"]))
def test_a_perfect_answer_scores_full_marks_under_any_budget(data, family, truth_space):
    patch, box_space = FAMILIES[family]
    unit, sides = (2 * patch) ** 2, st.integers(60, 1700)
    shapes = data.draw(st.lists(st.tuples(sides, sides), min_size=1, max_size=3))
    low, high = sorted(data.draw(st.lists(st.integers(4 * unit, 1500 * unit), min_size=2, max_size=2)))
    limits = st.lists(st.integers(low, high), min_size=2, max_size=2).map(sorted)
    names = ("visible", "infrared", "depth")[: len(shapes)]
    own = data.draw(st.dictionaries(st.sampled_from(names), limits))
    width, height = (1000, 1000) if truth_space == "norm_1000" else shapes[0]
    truth = json.dumps([[1, 2, width // 2, height - 1], [width // 3, 0, width, height // 4]])
    prompt = prompt_of(shapes, names, truth=truth, extra_info={"box_space": truth_space})
    budget = ImageBudget(low, high, patch, 2)
    prompt, problems = limited(prompt, own, budget)
    assert problems == []
    frames = BoxFrames(box_space, budget)
    for view in (None, *((name,) for name in names)):
        shown = prompt.sources[0 if view is None else names.index(view[0])]
        frame = frames(prompt, view)[1]
        limit = own.get(shown.name, (low, high))
        once = smart_resize(*shown.image.size[::-1], 2 * patch, *limit)
        seen = smart_resize(*once, 2 * patch, low, high) if shown.name in own else once
        assert frame == ((1000, 1000) if box_space == "norm_1000" else seen[::-1])
        answer = answered_perfectly(prompt, view, "grounding", frames)
        assert load_reward("grounding", "strict")(answer).accuracy == pytest.approx(1.0, abs=1e-9)


def test_one_file_under_two_budgets_is_two_images(world, tmp_path):
    """A worker's cache tells them apart."""
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (140, 196, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    large = ImageRef(str(tmp_path / "a.png"), (196, 140))
    small = ImageRef(large.path, large.size, resized=(84, 56))
    first = world.processor.process(world.prompt_ids("x", [large, small]), [large, small])
    again = world.processor.process(world.prompt_ids("x", [small, large]), [small, large])
    assert first.image_grid_thw == again.image_grid_thw[::-1] == ((1, 10, 14), (1, 4, 6))
    assert first.image_keys == again.image_keys[::-1]
    assert len(first.input_ids) == len(world.prompt_ids("x", [large, small])) - 2 + 35 + 6


@pytest.mark.parametrize(("layout", "images"), [("single", [35, 4]), ("repeated", [35, 35])])
def test_the_longest_view_counts_each_source_by_its_budget(world, layout, images):
    prompt, _ = limited(prompt_of([(196, 140)] * 2), {"infrared": [784, 4704]}, world.budget)
    ids = world.encoder.encode(prompt.messages, 2)
    assert prompt.sources[1].image.resized == (56, 56)
    assert longest_view(prompt, world.encoder, world.budget, layout) == len(ids) - 2 + sum(images)
