"""algorithm.part_weights in a step: the batch is what the step trains on, carried prompts included."""

from __future__ import annotations

import math
import random

import pytest

from mars.step import train_step
from mars.step_parts import SamplingState
from tests.builders import make_prompt
from tests.fakes.step import IMAGE, Rounds, one_step, parts
from tests.unit.test_step import expected_advantages, make_table, seen_advantages


@pytest.fixture
def prompts():
    return [make_prompt(f"p{i}", [IMAGE] * 2, extra_info={"name": f"p{i}"}) for i in range(7)]


def divisor(advantages):
    values = [a for of_prompt in advantages.values() for a in of_prompt.values()]
    return math.sqrt(sum(a * a for a in values) / (len(values) - 1)) + 1e-6


def test_the_batch_of_a_step_is_what_it_trains_on(prompts):
    """Five prompts have signal and four are trained on: the fifth is carried, and is of the next batch, not of this."""
    table = make_table(prompts, random.Random(0))
    table = {key: 0.5 if key[0] in ("p1", "p4") else score for key, score in table.items()}
    made = parts(table, selection="nonzero_advantage", max_rounds=5, part_weights={"part": 3.0})
    state = SamplingState(0, ())
    for names in (["p0", "p2", "p3", "p5"], ["p6", "p2", "p3", "p5"]):
        result = train_step(made, Rounds(prompts, 4), state, 1)
        state = result.state
        seen = seen_advantages(made.trainer, len(made.trainer.batches) - 1)
        assert list(seen) == names
        before = {name: {k: 3 * a for k, a in expected_advantages(table, name).items()} for name in names}
        for name in names:
            wanted = {k: a / divisor(before) for k, a in before[name].items()}
            assert seen[name] == pytest.approx(wanted, rel=1e-9)
        assert result.metrics["critic/advantages/batch_std"] == pytest.approx(divisor(before) - 1e-6)
        # The metrics of the advantages are of what was sampled, before the division.
        largest = max(3 * a for p in result.rollouts for a in expected_advantages(table, p.prompt.prompt_id).values())
        assert result.metrics["critic/advantages/max"] == pytest.approx(largest)


def test_without_weights_nothing_is_normalised_over_the_batch(prompts):
    table = make_table(prompts, random.Random(1))
    made = parts(table)
    assert "critic/advantages/batch_std" not in one_step(made, prompts).metrics
    assert seen_advantages(made.trainer)["p3"] == pytest.approx(expected_advantages(table, "p3"), rel=1e-9)
