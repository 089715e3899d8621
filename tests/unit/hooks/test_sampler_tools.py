"""What samplers of recipes share: the table of prompts, repeatable draws, and how often responses are right."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.errors import ConfigError
from mars.hooks.contract import SamplerSetup
from mars.hooks.sampler_tools import PromptTable, draw_without_replacement, generator, right_share
from mars.types import RewardResult
from tests.builders import make_prompt, make_rollouts

PROMPTS = tuple(make_prompt(f"p{i}") for i in range(5))
SETUP = SamplerSetup((PROMPTS[:3], PROMPTS[3:]), None, True, 2, 4, 0)


def test_a_generator_depends_on_seed_and_key_alone():
    first = generator(3, "vade", 7).random(4).tolist()
    assert generator(3, "vade", 7).random(4).tolist() == first
    others = [generator(4, "vade", 7), generator(3, "vade", 8), generator(3, "other", 7), generator(37, "vade")]
    assert all(other.random(4).tolist() != first for other in others)


def test_prompts_of_all_files_have_places():
    table = PromptTable(SETUP)
    assert len(table) == 5
    assert [table.place(prompt) for prompt in PROMPTS] == [0, 1, 2, 3, 4]
    assert table.places(["p3", "gone", "p0"]) == [3, None, 0]
    assert table.readable({"p1", "gone"}).tolist() == [True, False, True, True, True]


def test_fewer_prompts_than_a_step_has_are_refused():
    problem = r"^data\.prompts_per_step: a step cannot hold the same prompt twice; got 6 with 5 prompts in the data; "
    with pytest.raises(ConfigError, match=problem):
        PromptTable(replace(SETUP, prompts_per_step=6))


def test_draws_are_in_proportion_to_the_weights_that_are_left():
    """Weights 3, 2, 1: the order (0, 1) has the probability 3/6 * 2/3, (1, 0) has 2/6 * 3/4, (2, 1) has 1/6 * 2/5."""
    weights, n = np.array([3.0, 2.0, 1.0]), 6000
    found = Counter(tuple(draw_without_replacement(weights, 2, generator(0, "draw", i))) for i in range(n))
    for order, chance in {(0, 1): 3 / 6 * 2 / 3, (1, 0): 2 / 6 * 3 / 4, (2, 1): 1 / 6 * 2 / 5}.items():
        assert abs(found[order] / n - chance) < 4 * (chance * (1 - chance) / n) ** 0.5


def test_a_weight_of_0_is_drawn_last_and_in_random_order():
    weights = np.array([0.0, 1.0, 0.0, 1e-300])
    drawn = [draw_without_replacement(weights, 4, generator(0, i)) for i in range(40)]
    assert {tuple(sorted(order[:2])) for order in drawn} == {(1, 3)}
    assert {tuple(order[2:]) for order in drawn} == {(0, 2), (2, 0)}


@given(st.lists(st.floats(0, 1e6), max_size=12), st.integers(0, 15), st.integers(0, 99))
def test_no_place_is_drawn_twice(weights, count, seed):
    drawn = draw_without_replacement(np.array(weights), count, generator(seed))
    assert len(set(drawn)) == len(drawn) == min(count, len(weights))
    assert set(drawn) <= set(range(len(weights)))
    first_zero = next((k for k, i in enumerate(drawn) if weights[i] == 0), len(drawn))
    assert all(weights[i] == 0 for i in drawn[first_zero:])


def test_the_right_share_counts_valid_multi_responses_alone():
    def at(accuracy):
        return RewardResult(0.0, accuracy, {})

    item = make_rollouts("p", [at(1.0), at(0.5), at(0.49), None], s0=[at(1.0), at(1.0)])
    assert right_share(item, 0.5) == 2 / 3
    assert right_share(item, 0.6) == 1 / 3
    assert right_share(make_rollouts("p", [None, None], s0=[at(1.0)]), 0.5) is None
