"""`FsdpTrainer.update` on batches that no step makes: odd weights and advantages, and responses without tokens."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mars.actor.state import full_state


@pytest.fixture
def batch(world, pictures):
    """weights and advantages of four responses -> a batch."""

    def make(weights=(1, 1, 1, 1), advantages=(1.0, -1.0, 0.5, 2.0), lengths=(4, 6, 3, 5)):
        prompt = world.train_prompt("a", pictures[:1], [max(length, 1) for length in lengths])
        given = zip(prompt.responses, weights, advantages, strict=True)
        responses = tuple(replace(r, weight=float(w), advantage=float(a)) for r, w, a in given)
        pairs = zip(responses, lengths, strict=True)
        responses = tuple(r if n else replace(r, token_ids=(), rollout_logprobs=()) for r, n in pairs)
        return world.batch([replace(prompt, responses=responses)])

    return make


def weights_of(trainer):
    return {name: value.clone() for name, value in full_state(trainer._policy, torch.float32).items()}


def test_weights_weigh(world, batch):
    loss = world.trainer().update(batch((1, 1, 0, 0))).metrics["actor/pg_loss"]
    half = world.trainer().update(batch((0.5, 0.5, 0, 0))).metrics["actor/pg_loss"]
    whole = world.trainer().update(batch((1, 1, 0, 0), (1.0, -1.0, 99.0, -99.0))).metrics["actor/pg_loss"]
    assert whole == pytest.approx(loss), "a response of weight 0 counts for nothing"
    assert half != 0
    assert math.isfinite(half)


def test_a_batch_without_weight_changes_nothing(world, batch):
    trainer = world.trainer()
    before = weights_of(trainer)
    metrics = trainer.update(batch((0, 0, 0, 0))).metrics
    assert all(torch.equal(value, before[name]) for name, value in weights_of(trainer).items())
    assert all(map(math.isfinite, metrics.values()))


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_advantages_that_are_no_numbers_do_not_reach_the_policy(world, batch, odd):
    trainer = world.trainer()
    before = weights_of(trainer)
    trainer.update(batch(advantages=(1, 1, odd, 1)))  # skipped, with a warning
    assert all(torch.equal(value, before[name]) for name, value in weights_of(trainer).items())


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, -1.0])
def test_weights_that_are_none_are_refused_where_they_are_made(batch, odd):
    with pytest.raises(ValueError, match="the weight of a response must be finite and not negative"):
        batch((1, 1, odd, 1))


def test_a_response_without_tokens_counts_for_nothing(world, batch):
    with_empty = world.trainer().update(batch(lengths=(4, 6, 0, 5))).metrics["actor/pg_loss"]
    by_hand = -(4 * 1.0 + 6 * -1.0 + 5 * 2.0) / 15
    assert with_empty == pytest.approx(by_hand, abs=1e-6)


def test_a_batch_of_empty_responses_changes_nothing(world, batch):
    trainer = world.trainer()
    before = weights_of(trainer)
    metrics = trainer.update(batch(lengths=(0, 0, 0, 0))).metrics
    assert all(map(math.isfinite, metrics.values()))
    assert all(torch.equal(value, before[name]) for name, value in weights_of(trainer).items())
