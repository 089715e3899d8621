"""recipe/vade: what is known of a prompt, how it is forgotten, and which prompts are drawn."""

from __future__ import annotations

import random
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.errors import ConfigError
from mars.hooks.prompt_sampler import SampledRounds
from mars.step import train_step
from mars.step_parts import SamplingState
from tests.fakes.step import parts
from tests.shipped.recipes.recipe_files import module_of
from tests.shipped.recipes.sampler_runs import PROMPTS, SETUP, observed
from tests.unit.test_step import make_table

RECIPE = module_of("vade")
SETTINGS = RECIPE.Settings(
    prior_right=1.0, prior_wrong=1.0, decay=0.5, slow_decay=1.0, rule="topk", target=0.5, lower=0.3, upper=0.7,
    candidates=None, right_from=0.5,
)  # fmt: skip
RATES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def sampler(**changes):
    return RECIPE.Vade(SETUP, replace(SETTINGS, **changes))


def counts(made, prompt):
    return made.state()["counts"][prompt.prompt_id]


def test_the_counts_of_a_prompt_by_hand():
    made = sampler()
    made.observe([observed(PROMPTS[0], [1, 1, 0.5, 0])], 1)  # three right, one wrong
    assert counts(made, PROMPTS[0]) == [0.5 * 1 + 0.5 * 1 + 3, 0.5 * 1 + 0.5 * 1 + 1]
    metrics = made.observe([observed(PROMPTS[0], [0, None, 0.4, None])], 2)  # two wrong, the others failed
    assert counts(made, PROMPTS[0]) == [0.5 * 4 + 0.5 * 1 + 0, 0.5 * 2 + 0.5 * 1 + 2]
    assert metrics == {"known": 1, "rate": 2.5 / (2.5 + 3.5), "rate_error": pytest.approx(4 / (4 + 2) - 0)}
    made.observe([observed(PROMPTS[0], [None] * 4), observed(PROMPTS[1], [None] * 4)], 3)
    assert made.state() == {"counts": {"p0": [2.5, 3.5]}}


def test_every_prompt_forgets_in_every_step_and_a_sampled_one_more():
    made = sampler(slow_decay=0.9)
    made.observe([observed(p, [1, 1, 1, 0]) for p in PROMPTS[:2]], 1)
    assert counts(made, PROMPTS[1]) == [4, 2]  # the prior does not move
    made.observe([observed(PROMPTS[0], [1, 0])], 2)
    slow = (0.9 * 4 + 0.1 * 1, 0.9 * 2 + 0.1 * 1)
    assert counts(made, PROMPTS[1]) == pytest.approx(slow)
    assert counts(made, PROMPTS[0]) == pytest.approx([0.5 * slow[0] + 0.5 + 1, 0.5 * slow[1] + 0.5 + 1])


@given(st.floats(0.1, 100), st.floats(0.1, 100), st.floats(0, 1))
def test_forgetting_goes_towards_the_prior_and_not_beyond(count, prior, decay):
    (found,) = RECIPE.kept(np.array([count]), np.array([prior]), decay)
    assert min(count, prior) - 1e-9 <= found <= max(count, prior) + 1e-9
    assert abs(found - prior) == pytest.approx(decay * abs(count - prior), abs=1e-9)


@pytest.mark.parametrize(
    ("changes", "rates", "count", "expected"),
    [
        ({}, [0.1, 0.45, 0.9, 0.6], 2, [1, 3]),  # distances 0.4, 0.05, 0.4, 0.1
        ({"target": 0.9}, [0.1, 0.45, 0.9, 0.6], 3, [2, 3, 1]),
        ({"rule": "threshold"}, [0.1, 0.69, 0.31, 0.75, 0.5], 4, [1, 2, 4, 3]),  # 0.75 is 0.05 outside, 0.1 is 0.2
        ({"rule": "threshold"}, [0.69, 0.5, 0.31], 2, [0, 1]),  # all inside: the first ones
        ({}, [0.5], 3, [0]),
    ],
)
def test_the_chosen_rates_by_hand(changes, rates, count, expected):
    assert RECIPE.best(np.array(rates), count, replace(SETTINGS, **changes)).tolist() == expected


@pytest.mark.parametrize("rule", ["topk", "threshold"])
def test_the_first_of_many_equal_rates_are_chosen(rule):
    """The candidates are in random order, so this is a random choice. Every third rate is outside."""
    rates = np.where(np.arange(100) % 3 == 0, 0.9, 0.6)
    chosen = RECIPE.best(rates, 9, replace(SETTINGS, rule=rule)).tolist()
    assert chosen == [i for i in range(100) if i % 3][:9]


@given(RATES, st.integers(0, 12))
def test_topk_at_one_half_takes_the_largest_variances(rates, count):
    """r (1 - r) = 1/4 - (r - 1/2)^2."""
    chosen = RECIPE.best(np.array(rates), count, SETTINGS)
    left_out = set(range(len(rates))) - set(chosen.tolist())
    assert len(chosen) == min(count, len(rates))
    for i in chosen:
        assert all(rates[i] * (1 - rates[i]) >= rates[k] * (1 - rates[k]) - 1e-12 for k in left_out)


@given(RATES, st.integers(0, 12))
def test_threshold_takes_no_rate_outside_while_one_is_left_inside(rates, count):
    chosen = set(RECIPE.best(np.array(rates), count, replace(SETTINGS, rule="threshold")).tolist())
    inside = {i for i, rate in enumerate(rates) if 0.3 <= rate <= 0.7}
    assert chosen <= inside or inside <= chosen


def test_prompts_that_are_neither_easy_nor_hard_are_drawn():
    """p0 is always right, p1 never; p2, p3 and p4 half the time, and the others are not in the data."""
    made = RECIPE.Vade(replace(SETUP, sets=(tuple(PROMPTS[:5]),)), replace(SETTINGS, decay=1.0))
    for step in range(1, 51):
        made.observe([observed(PROMPTS[i], [1 - i] * 4) for i in (0, 1)], step)
        made.observe([observed(prompt, [1, 0, 1, 0]) for prompt in PROMPTS[2:5]], step)
    for round in range(20):
        assert {prompt.prompt_id for prompt in made.batch(round, frozenset())} == {"p2", "p3", "p4"}
    orders = {tuple(prompt.prompt_id for prompt in made.batch(round, frozenset())) for round in range(20)}
    assert len(orders) == 6, "in random order"
    assert {prompt.prompt_id for prompt in made.batch(20, frozenset({"p3"}))} > {"p2", "p4"}


def test_what_is_not_known_is_tried():
    """Each prompt of equal counts is drawn equally often: 3 of 10 in each of 400 rounds."""
    drawn = [prompt.prompt_id for round in range(400) for prompt in sampler().batch(round, frozenset())]
    for prompt in PROMPTS:
        assert abs(drawn.count(prompt.prompt_id) / 400 - 0.3) < 4 * (0.3 * 0.7 / 400) ** 0.5


def test_candidates_limit_the_choice():
    """With as many candidates as a step has prompts, what is known does not matter."""
    made, new = sampler(candidates=3), sampler(candidates=3)
    made.observe([observed(prompt, [1, 1, 1, 1]) for prompt in PROMPTS[:5]], 1)
    assert [made.batch(i, frozenset()) for i in range(9)] == [new.batch(i, frozenset()) for i in range(9)]
    with pytest.raises(ConfigError, match=r"^recipe\.settings\.vade\.candidates: fewer than a step .*; got 2; give 3 "):
        sampler(candidates=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prior_right": 0.0}, "prior_right and prior_wrong must be above 0"),
        ({"decay": 1.5}, "decay must be from 0 to 1"),
        ({"slow_decay": -0.1}, "slow_decay must be from 0 to 1"),
        ({"lower": 0.8}, "lower must not be above upper"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        RECIPE.Settings(**asdict(SETTINGS) | changes)


def test_a_step_counts_multi_responses_and_not_anchors():
    made = sampler()
    table = {key: float(key[1] is not None) for key in make_table(PROMPTS, random.Random(1))}  # only anchors are right
    rounds = SampledRounds("vade:Vade", made, SETUP)
    result = train_step(parts(table), rounds, SamplingState(0, ()), 1)
    assert result.metrics["sampler/known"] == 3
    assert made.state()["counts"] == {item.prompt.prompt_id: [1, 1 + 4] for item in result.rollouts}
