"""The reference model that follows the policy: its weights by hand, in a checkpoint, and without a KL term."""

from __future__ import annotations

import time

import pytest
import torch

from mars.algorithms.scoring import KL_TO_REFERENCE, ScoringSpec
from mars.data.synthetic.tiny_model import build_tiny
from mars.errors import ConfigError
from tests.builders import altered
from tests.tiny_world import GRPO, full

KL = {"kl_coefficient": 0.1}


def moving(decay, every, **more):
    return altered(GRPO, reference_decay=decay, reference_every=every, **more)


def weights(model):
    """Copies. Reading them reshards the model, as the update itself does."""
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()
    return {name: full(p.detach()).clone() for name, p in model.named_parameters()}


@pytest.fixture
def batch(world, pictures):
    return world.batch([world.train_prompt("a", pictures[:2], [5, 9]), world.train_prompt("bb", [pictures[2]], [4, 6])])


def test_every_second_step_it_moves_by_its_decay(world, batch):
    trainer = world.trainer(objective=moving(0.75, 2, **KL), learning_rate=1e-2)
    first = weights(trainer._reference)
    trainer.update(batch)
    assert all(torch.equal(value, first[name]) for name, value in weights(trainer._reference).items())
    trainer.update(batch)
    policy = weights(trainer._policy)
    for name, value in weights(trainer._reference).items():
        torch.testing.assert_close(value, 0.75 * first[name] + 0.25 * policy[name], rtol=1e-6, atol=1e-8)
    assert any(not torch.equal(policy[name], value) for name, value in first.items())


def test_a_copy_is_the_policy_to_the_bit_and_is_what_the_next_kl_is_measured_to(world, batch):
    """Without a KL term: the model is loaded for its scores."""
    trainer = world.trainer(objective=moving(None, 1), learning_rate=1e-2)
    before = trainer.score_responses(batch, ScoringSpec("ref", "sum", model="reference")).values
    trainer.update(batch)
    policy = weights(trainer._policy)
    assert all(torch.equal(value, policy[name]) for name, value in weights(trainer._reference).items())
    assert trainer.score_responses(batch, ScoringSpec("ref", "sum", model="reference")).values != before
    assert all(x == 0 for row in trainer.score_responses(batch, KL_TO_REFERENCE).values for x in row)


def test_a_skipped_update_leaves_it(world, batch):
    trainer = world.trainer(objective=moving(None, 1), learning_rate=1e-2)
    first = weights(trainer._reference)
    trainer._objective.kept_scale = lambda *_: float("nan")
    assert trainer.update(batch).metrics["fault/skipped_updates"] == 1
    assert all(torch.equal(value, first[name]) for name, value in weights(trainer._reference).items())


def test_a_resumed_run_has_the_reference_of_its_checkpoint(world, batch, tmp_path):
    objective = moving(0.5, 2, **KL)
    trainer = world.trainer(objective=objective, learning_rate=1e-2)
    for _ in range(3):
        trainer.update(batch)
    trainer.start_checkpoint(str(tmp_path))
    while not (tmp_path / "rank_00000.json").exists():
        time.sleep(0.01)
    resumed = world.trainer(objective=objective, learning_rate=1e-2)
    resumed.load_checkpoint(str(tmp_path))
    for one in (trainer, resumed):
        one.update(batch)  # the fourth step, which moves the reference again
    wanted = weights(trainer._reference)
    assert all(torch.equal(value, wanted[name]) for name, value in weights(resumed._reference).items())
    assert resumed.score_responses(batch, KL_TO_REFERENCE) == trainer.score_responses(batch, KL_TO_REFERENCE)


def test_a_model_of_other_parameters_cannot_follow(world, tmp_path):
    tied = build_tiny(tmp_path / "tied", seed=41, tie_word_embeddings=True)
    with pytest.raises(
        ConfigError, match=r"algorithm\.reference_every: algorithm\.kl_reference must have the policy's"
    ):
        world.trainer(objective=moving(None, 1, kl_reference=str(tied)))
