"""When the trainer reads images: each prompt once, in the order of the forwards, beside them, in a thread that ends."""

from __future__ import annotations

import math
import threading
from dataclasses import replace

import pytest
import torch

from mars.actor.reading import without
from mars.actor.state import full_state
from mars.algorithms.scoring import KL_TO_REFERENCE
from mars.data.pixels.images import BadImage
from tests.builders import altered
from tests.tiny_world import GRPO


@pytest.fixture
def batch(world, pictures):
    prompts = [
        world.train_prompt("a", pictures[:2], [5, 9]),
        world.train_prompt("bb", [pictures[1]], [4, 6]),
        world.train_prompt("c", [pictures[2]], [3, 2]),
    ]
    return world.batch(prompts, per_update=2, tokens_per_forward=60)


def trainer_of(world, process, objective=GRPO):
    return world.trainer_of(world.config(objective=objective), process)


def in_the_order_of_forwards(batch):
    """Old log-probs of the second update, then the first update."""
    first, second = batch.updates
    return list(dict.fromkeys(p for plan in (second, first) for micro in plan.ranks[0] for p, _ in micro.rows))


def threads():
    """Of readers, those of trainers that other tests have left open too."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("images")}


def test_each_prompt_is_processed_once_in_the_order_of_the_forwards_by_a_thread_that_ends(world, batch):
    processed = []

    def process(ids, images):
        processed.append((images, threading.current_thread().name.startswith("images")))
        return world.processor.process(ids, images)

    before, trainer = threads(), trainer_of(world, process)
    assert len(batch.updates) == 2, "old log-probs and updates both run over the batch"
    trainer.update(batch)
    assert processed == [(batch.prompts[p].images, True) for p in in_the_order_of_forwards(batch)]
    assert len(threads() - before) == 1
    trainer.close()
    assert threads() - before == set()


def test_old_reference_and_update_passes_share_what_was_processed(world, batch):
    """Three passes over the second update, two over the first; each prompt's images are processed once."""
    processed, forwards = [], []

    def process(ids, images):
        processed.append(images)
        return world.processor.process(ids, images)

    trainer = trainer_of(world, process, altered(GRPO, kl_coefficient=0.1))
    for name in ("_policy", "_reference"):
        getattr(trainer, name).register_forward_pre_hook(lambda *_, name=name: forwards.append(name))
    trainer.update(batch)
    trainer.close()
    in_update = [len(plan.ranks[0]) for plan in batch.updates]
    assert forwards.count("_policy") == sum(in_update) + in_update[1]
    assert forwards.count("_reference") == sum(in_update)
    assert sorted(processed, key=str) == sorted((prompt.images for prompt in batch.prompts), key=str)


def test_the_first_forward_runs_before_the_last_image_is_there(world, batch):
    """The last prompt's images come only after something has been asked of the policy."""
    begun = threading.Event()
    last = in_the_order_of_forwards(batch)[-1]

    def process(ids, images):
        if images == batch.prompts[last].images:
            assert begun.wait(60)
        return world.processor.process(ids, images)

    trainer = trainer_of(world, process)
    trainer._policy.register_forward_pre_hook(lambda *_: begun.set())
    trainer.update(batch)
    trainer.close()


def without_pictures_of(world, batch, *numbers):
    """A `Process` that cannot read the images of these prompts."""
    gone = [batch.prompts[number].images for number in numbers]

    def process(ids, images, blank=False):
        if images in gone and not blank:
            raise BadImage("missing", "gone.png: no such image")
        return world.processor.process(ids, images, blank)

    return process


def policy_and_metrics(trainer, batch):
    stats = trainer.update(batch)
    weights = full_state(trainer._policy, torch.float32)
    trainer.close()
    return stats, weights


@pytest.mark.parametrize("lost", [(0,), (2,), (0, 2), (0, 1, 2)])
def test_a_prompt_that_cannot_be_read_has_weight_0(world, batch, lost):
    """The update is that of a batch in which it had weight 0 from the start, in every number."""
    found, weights = policy_and_metrics(trainer_of(world, without_pictures_of(world, batch, *lost)), batch)
    weightless = without(batch, lost)
    expected, as_expected = policy_and_metrics(trainer_of(world, world.processor.process), weightless)
    assert found.unreadable == {batch.prompts[p].prompt_id: "gone.png: no such image" for p in lost}
    assert expected.unreadable == {}
    assert dict(found.metrics) == dict(expected.metrics)
    assert all(torch.equal(value, as_expected[name]) for name, value in weights.items())
    untouched, _ = policy_and_metrics(trainer_of(world, world.processor.process), batch)
    assert dict(found.metrics) != dict(untouched.metrics)


def test_the_kl_of_a_prompt_that_cannot_be_read_is_no_number(world, batch):
    objective = altered(GRPO, kl_coefficient=0.1, kl_reference=str(world.folder))
    trainer = trainer_of(world, without_pictures_of(world, batch, 1), objective)
    found = trainer.score_responses(batch, KL_TO_REFERENCE)
    trainer.close()
    assert found.unreadable == {"bb": "gone.png: no such image"}
    assert [[math.isnan(value) for value in row] for row in found.values] == [[False] * 2, [True] * 2, [False] * 2]
    assert found.readable(batch) == [found.values[0], found.values[2]]


def test_blank_images_have_the_sizes_of_those_they_stand_for(world, pictures):
    ids = world.prompt_ids("a", pictures)
    missing = tuple(replace(ref, path="gone.png", resized=(56, 28) if i else None) for i, ref in enumerate(pictures))
    shown = tuple(replace(ref, resized=gone.resized) for ref, gone in zip(pictures, missing, strict=True))
    blank, own = world.processor.process(ids, missing, blank=True), world.processor.process(ids, shown)
    assert blank.image_grid_thw == own.image_grid_thw
    assert torch.equal(blank.input_ids, own.input_ids)
    assert [pixels.shape for pixels in blank.pixel_values] == [pixels.shape for pixels in own.pixel_values]
    with pytest.raises(BadImage, match=r"gone\.png"):
        world.processor.process(ids, missing)
