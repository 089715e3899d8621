"""When the trainer reads images: each prompt once, in the order of the forwards, beside them, in a thread that ends."""

from __future__ import annotations

import threading

import pytest

from mars.actor.fsdp_trainer import FsdpTrainer
from mars.actor.trainer import Rendezvous
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
    return FsdpTrainer(world.config(objective=objective), world.rules, Rendezvous(0, 1, None, 60.0), process)


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


def test_a_bad_image_is_raised_by_the_update_that_needs_it(world, batch):
    def process(ids, images):
        if images == batch.prompts[2].images:
            raise BadImage("missing", "gone.png: no such image")
        return world.processor.process(ids, images)

    trainer = trainer_of(world, process)
    with pytest.raises(BadImage, match=r"gone\.png"):
        trainer.update(batch)
    trainer.close()
