"""`actor.freeze` on the tiny models: what is frozen costs no gradient and no state, the rest trains as ever."""

from __future__ import annotations

import time

import pytest
import torch
from safetensors.torch import load_file

from mars.actor.parts import part_of
from mars.actor.shards import trainer_state
from mars.actor.state import full_state
from mars.errors import CheckpointError
from tests.frozen import throw_away_gradients
from tests.tiny_world import gradients

VISION = ["vision", "projector"]


def batch_of(world, pictures, packing="shared_prefix"):
    """Two updates."""
    prompts = [
        world.train_prompt("a", pictures[:2], [5, 9, 2]),
        world.train_prompt("text", [], [7, 3]),
        world.train_prompt("bb", [pictures[1]], [4, 12], rewards=[0.0, 1.0]),
    ]
    return world.batch(prompts, per_update=2, packing=packing)


def weights(trainer):
    return {name: value.clone() for name, value in full_state(trainer._policy, torch.float32).items()}


def parts(trainer, names):
    return {part_of(name.rpartition("backbone.")[2], trainer._policy.family.parts) for name in names}


@pytest.mark.parametrize(
    ("family", "packing"),
    [
        ("world", "shared_prefix"), ("tied_world", "padded"), ("qwen3_world", "shared_prefix"),
        ("qwen3_world", "padded"), ("internvl_world", "shared_prefix"), ("qwen3_5_world", "shared_prefix"),
    ],
)  # fmt: skip
def test_the_rest_trains_as_if_the_gradients_were_thrown_away(family, packing, pictures, request):
    world = request.getfixturevalue(family)
    batch = batch_of(world, pictures, packing)
    frozen = world.trainer(freeze=VISION, packing=packing, weight_decay=0.1)
    whole = throw_away_gradients(world.trainer(packing=packing, weight_decay=0.1), VISION)
    before = weights(frozen)
    assert frozen.update(batch).metrics == whole.update(batch).metrics  # the norm of the gradient among them
    mine, wanted = weights(frozen), weights(whole)
    assert mine.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in mine.items())
    changed = [name for name, value in mine.items() if not torch.equal(value, before[name])]
    assert parts(frozen, changed) == {"language"}
    assert "lm_head.weight" in changed


@pytest.mark.parametrize(
    ("family", "freeze", "checkpointing"),
    [
        ("world", VISION, True), ("world", VISION, False), ("qwen3_world", VISION, True),
        ("qwen3_world", ["vision"], True), ("world", ["projector"], True), ("world", ["language"], True),
        ("world", ["vision", "language"], False),
    ],
)  # fmt: skip
def test_no_gradient_reaches_what_is_frozen(family, freeze, checkpointing, pictures, request):
    world = request.getfixturevalue(family)
    trainer = world.trainer(freeze=freeze, gradient_checkpointing=checkpointing)
    tower, below = trainer._policy.backbone.model.visual, {}
    tower.blocks[-1].register_forward_hook(lambda *given: below.update(block=given[-1].requires_grad))
    tower.merger.register_forward_hook(lambda *given: below.update(projector=given[-1].requires_grad))
    found = gradients(trainer, batch_of(world, pictures))
    trained = {"vision", "projector", "language"} - set(freeze)
    assert parts(trainer, [name for one in found for name in one]) == trained
    assert below == {"block": "vision" in trained, "projector": not {"vision", "projector"}.isdisjoint(trained)}
    state = trainer_state(trainer._policy, trainer._optimizer, 0, 0)
    assert parts(trainer, [name for name in state if name.startswith("optimizer.exp_avg")]) == trained
    assert parts(trainer, [name for name in state if name.startswith("model.")]) == {"vision", "projector", "language"}


def test_an_update_of_texts_has_nothing_to_train_if_language_is_frozen(world):
    trainer = world.trainer(freeze=["language"], weight_decay=0.1)
    before = weights(trainer)
    metrics = trainer.update(world.batch([world.train_prompt("text", [], [7, 3])])).metrics
    assert (metrics["actor/grad_norm"], metrics["fault/skipped_updates"]) == (0, 0)
    assert all(torch.equal(value, before[name]) for name, value in weights(trainer).items())


def test_a_checkpoint_resumes_to_the_bit_and_only_with_the_same_freeze(world, pictures, tmp_path):
    batch, shards = batch_of(world, pictures), tmp_path / "shards"
    shards.mkdir()
    trainer, resumed = world.trainer(freeze=VISION), world.trainer(freeze=VISION)
    trainer.update(batch)
    trainer.start_checkpoint(str(shards))
    while not (shards / "rank_00000.json").exists():
        time.sleep(0.01)
    resumed.load_checkpoint(str(shards))
    assert trainer.update(batch).metrics == resumed.update(batch).metrics
    mine, wanted = weights(resumed), weights(trainer)
    assert all(torch.equal(value, wanted[name]) for name, value in mine.items())
    with pytest.raises(CheckpointError, match=r"resume with .*settings of freeze"):
        world.trainer().load_checkpoint(str(shards))
    with pytest.raises(CheckpointError, match=r"resume with .*settings of freeze"):
        world.trainer(freeze=["language"]).load_checkpoint(str(shards))


def test_the_saved_policy_is_whole(tied_world, pictures, tmp_path):
    trainer = tied_world.trainer(freeze=VISION)
    trainer.update(batch_of(tied_world, pictures))
    trainer.save(str(tmp_path / "policy"))
    saved, original = (load_file(folder / "model.safetensors") for folder in (tmp_path / "policy", tied_world.folder))
    assert saved.keys() == original.keys()
    changed = [name for name, value in saved.items() if not torch.equal(value, original[name])]
    assert parts(trainer, changed) == {"language"}
    assert any("embed_tokens" in name for name in changed)
