"""Blank images stand for those that could not be read, and for no other prompt's."""

from __future__ import annotations

import sys
import types
from itertools import permutations

import numpy as np
import pytest
import torch
from PIL import Image

from mars.actor.batch import distinct_images
from mars.data.prompts.budget import ImageBudget
from mars.data.prompts.processor import PromptProcessor
from mars.types import ImageRef, TokenRules

IMAGE_ID = 9
RULES = TokenRules(IMAGE_ID, eos_ids=(1,), pad_id=0, blocked_ids=())
X, Y, Z = (ImageRef(f"{name}.png", (4, 2)) for name in "xyz")
COLOURS = {X: 10, Y: 20, Z: 30}
WHITE = 255


class OnePatch:
    """An image processor that makes one patch of an image: its colour."""

    @classmethod
    def from_pretrained(cls, path, **settings):
        return cls()

    def __call__(self, images, return_tensors, size):
        colour = float(np.asarray(images[0]).max())
        return {"pixel_values": torch.tensor([[colour]]), "image_grid_thw": torch.tensor([[1, 1, 1]])}


@pytest.fixture
def processor(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", types.SimpleNamespace(AutoImageProcessor=OnePatch))

    def decode(ref):
        return Image.new("RGB", ref.size, (COLOURS[ref],) * 3)

    return PromptProcessor("model", decode=decode, budget=ImageBudget(1, 8, 1, 1), rules=RULES, cache_bytes=2**10)


def shown(prompts):
    """The colours that each prompt shows in one forward."""
    images = distinct_images(prompts)
    colours = iter([images.pixel_values[place].item() for place in images.index])
    return [[next(colours) for _ in prompt.image_keys] for prompt in prompts]


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_blank_image_takes_no_image_from_another_prompt(processor, order):
    """The first prompt lost y; it shares x with the second, and all its images with the third."""
    pairs = [((X, Y), True), ((X, Z), False), ((Y, X), False)]
    prompts = [processor.process([IMAGE_ID] * 2, images, blank) for images, blank in pairs]
    expected = [[WHITE, WHITE], [10, 30], [20, 10]]
    assert shown([prompts[i] for i in order]) == [expected[i] for i in order]


def test_images_are_in_a_forward_once(processor):
    prompts = [processor.process([IMAGE_ID] * 2, images) for images in ((X, Y), (Y, X), (X, X))]
    assert distinct_images(prompts).pixel_values.tolist() == [[10], [20]]
