from __future__ import annotations

import pytest
import torch

from mars.data.pixels.images import decode_image
from mars.data.prompts.processor import PromptProcessor
from mars.errors import DataError


@pytest.fixture
def make(world):
    """cache_bytes -> (processor, what it decoded so far)."""

    def build(cache_bytes):
        decoded = []

        def decode(ref):
            decoded.append(ref)
            return decode_image(ref)

        processor = PromptProcessor(
            str(world.folder), decode=decode, budget=world.budget, rules=world.rules, cache_bytes=cache_bytes,
        )  # fmt: skip
        return processor, decoded

    return build


def test_an_image_is_decoded_once_while_it_fits(make, world, pictures):
    processor, decoded = make(2**24)
    ids = world.prompt_ids("x", pictures[:2])
    first, second = (processor.process(ids, pictures[:2]) for _ in range(2))
    assert decoded == pictures[:2]
    assert first.image_keys == tuple(pictures[:2])
    assert all(a is b for a, b in zip(first.pixel_values, second.pixel_values, strict=True))
    placeholders = int((first.input_ids == world.rules.image_id).sum())
    assert placeholders == sum(t * h * w // 4 for t, h, w in first.image_grid_thw)


def test_the_image_used_last_stays_and_the_budget_holds(make, world, pictures):
    sizes = [make(2**24)[0].process(world.prompt_ids("x", [p]), [p]).pixel_values[0].nbytes for p in pictures]
    processor, decoded = make(sizes[0] + max(sizes[1:3]))
    for i in (0, 1, 0, 2, 0, 1):  # 2 pushes 1 out, as 0 was used after it
        processor.process(world.prompt_ids("x", [pictures[i]]), [pictures[i]])
    assert [pictures.index(ref) for ref in decoded] == [0, 1, 2, 1]
    kept = sum(pixels.nbytes for pixels, _ in processor._cache.values())
    assert kept <= sizes[0] + max(sizes[1:3])


def test_without_a_cache_the_result_is_the_same(make, world, pictures):
    ids = world.prompt_ids("x", [pictures[0], pictures[0]])
    (cached, _), (plain, decoded) = make(2**24), make(0)
    one, other = (p.process(ids, [pictures[0], pictures[0]]) for p in (cached, plain))
    assert len(decoded) == 2
    assert torch.equal(torch.cat(one.pixel_values), torch.cat(other.pixel_values))


def test_placeholders_and_images_must_be_equally_many(make, world, pictures):
    processor, _ = make(0)
    with pytest.raises(DataError, match="2 image placeholders for 1 images"):
        processor.process(world.prompt_ids("x", pictures[:2]), pictures[:1])
