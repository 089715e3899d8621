"""recipe/glm_rlcs: buckets of difficulty, their parts of a round, and how many prompts a round has."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.algorithms.pooled_rewards import PooledRewards
from mars.algorithms.selection import select_prompts
from mars.errors import ConfigError
from mars.hooks.prompt_sampler import SampledRounds
from mars.step import train_step
from mars.step_parts import SamplingState
from tests.builders import make_prompt
from tests.fakes.step import GRPO, parts
from tests.shipped.recipes.recipe_files import module_of
from tests.shipped.recipes.sampler_runs import PROMPTS, SETUP, observed
from tests.unit.test_step import make_table

RECIPE = module_of("glm_rlcs")
SETTINGS = RECIPE.Settings(
    buckets=5, unseen=0.5, pass_rate=None, rate_decay=0.5, invalid_decay=0.75, max_factor=3.0, right_from=0.5
)
SCORES = st.lists(st.sampled_from([0.0, 0.5, 1.0, None]), min_size=1, max_size=4)


def sampler(setup=SETUP, **changes):
    return RECIPE.CurriculumSampling(setup, replace(SETTINGS, **changes))


def names(prompts):
    return [prompt.prompt_id for prompt in prompts]


# --- difficulty


def test_buckets_by_hand():
    rates = np.array([0.0, 0.19, 0.2, 0.5, 0.79, 0.99, 1.0])
    assert RECIPE.bucket_of(rates, 5).tolist() == [0, 0, 1, 2, 3, 4, 4]
    assert RECIPE.bucket_of(rates, 1).tolist() == [0] * 7


def test_the_parts_of_the_buckets_by_hand():
    """Centres 0.5 (two prompts), 0.1 and 0.9."""
    found = RECIPE.draw_weights(np.array([0.5, 0.45, 0.1, 1.0]), 5)
    assert found.tolist() == pytest.approx([0.5 * 0.5 / 2, 0.5 * 0.5 / 2, 0.1 * 0.9, 0.9 * 0.1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.integers(1, 7))
def test_a_bucket_has_its_part_however_many_prompts_it_has(rates, buckets):
    values = np.array(rates)
    weights, bucket = RECIPE.draw_weights(values, buckets), RECIPE.bucket_of(values, buckets)
    assert set(bucket.tolist()) <= set(range(buckets))
    for b in set(bucket.tolist()):
        centre = (2 * b + 1) / (2 * buckets)
        assert weights[bucket == b].sum() == pytest.approx(centre - centre**2)
        assert np.ptp(weights[bucket == b]) == 0


def test_the_rate_of_a_prompt_by_hand():
    made = sampler()
    made.observe([observed(PROMPTS[0], [1, 0, 0.2, 0]), observed(PROMPTS[1], [None] * 4)], 1)
    assert made.state()["rates"] == {"p0": 1 / 4}  # the first responses count whole
    made.observe([observed(PROMPTS[0], [1, 1, None, 0.5])], 2)
    assert made.state()["rates"] == {"p0": 0.5 * 1 / 4 + 0.5 * 1}


def test_a_rate_from_before_training_is_where_the_moving_average_begins():
    rows = tuple(make_prompt(f"p{i}", extra_info={"rate": rate}) for i, rate in enumerate((0.8, 1, 0)))
    setup = replace(SETUP, sets=(rows,))
    made = sampler(setup, pass_rate="rate")
    metrics = made.observe([observed(rows[0], [1, 0, 0, 0])], 1)
    assert made.state()["rates"] == {"p0": pytest.approx(0.5 * 0.8 + 0.5 * 1 / 4)}
    # 0.525 is in the middle bucket, 1 in the last one, 0 in the first.
    assert [metrics[f"bucket_{i}"] for i in range(5)] == pytest.approx([1 / 3, 0, 1 / 3, 0, 1 / 3])


@pytest.mark.parametrize("extra_info", [{}, {"rate": 1.1}, {"rate": "0.5"}, {"rate": True}, {"rate": float("nan")}])
def test_a_row_without_a_rate_is_refused(extra_info):
    setup = replace(SETUP, sets=((make_prompt("a", extra_info=extra_info),),), prompts_per_step=1)
    with pytest.raises(
        ConfigError, match=r"pass_rate: rows\.jsonl:a has no number from 0 to 1 in extra_info\.rate; got"
    ):
        sampler(setup, pass_rate="rate")


def test_the_middle_is_drawn_most_and_no_prompt_is_left_out_for_good():
    """Nine prompts of each bucket 0, 2 and 4: draws of one have the chances 9, 25 and 9 of 43."""
    rows = tuple(make_prompt(f"{b}_{i}", extra_info={"rate": (2 * b + 1) / 10}) for b in (0, 2, 4) for i in range(9))
    made = sampler(replace(SETUP, sets=(rows,), prompts_per_step=1), pass_rate="rate")
    drawn = Counter(names(made.batch(round, frozenset()))[0] for round in range(3000))
    by_bucket = {b: sum(n for name, n in drawn.items() if name.startswith(b)) / 3000 for b in "024"}
    for b, chance in {"0": 9 / 43, "2": 25 / 43, "4": 9 / 43}.items():
        assert abs(by_bucket[b] - chance) < 4 * (chance * (1 - chance) / 3000) ** 0.5
    assert len(drawn) == 27


# --- how many


@pytest.mark.parametrize(
    ("invalid", "expected"),
    [(0.0, 8), (0.1, 9), (0.2, 10), (0.5, 16), (0.75, 32), (0.8, 32), (1.0, 32)],  # 8 / 0.9 = 8.9; at most 4 * 8
)
def test_the_size_of_a_round_by_hand(invalid, expected):
    assert RECIPE.round_size(8, invalid, 4.0) == expected


@given(st.integers(1, 600), st.floats(0, 1), st.floats(1, 5))
def test_a_round_is_as_large_as_needed_and_bounded(prompts, invalid, bound):
    size = RECIPE.round_size(prompts, invalid, bound)
    assert prompts <= size < prompts * bound + 1
    assert size * (1 - invalid) >= prompts - 1e-6 or size >= prompts * bound - 1e-6
    assert RECIPE.round_size(prompts, 0.0, bound) == prompts


def test_prompts_without_an_advantage_by_hand():
    """All right: no advantage, but with a wrong anchor there is one. Failed responses have none."""
    plain = [observed(PROMPTS[0], [1, 1, 1, 1]), observed(PROMPTS[0], [1, 0, 1, 1]), observed(PROMPTS[0], [None, None])]
    assert RECIPE.invalid_share(plain) == pytest.approx(2 / 3)
    assert RECIPE.invalid_share([observed(PROMPTS[0], [1, 1, 1], s0=[0.0])]) == 0
    assert RECIPE.invalid_share([observed(PROMPTS[0], [1, 1, 1], s0=[1.0, None])]) == 1


@given(
    st.lists(st.tuples(SCORES, SCORES), min_size=1, max_size=5),
    st.sampled_from(["group_norm", "leave_one_out"]),
    st.booleans(),
)
def test_what_is_invalid_is_what_a_step_drops(groups, estimator, normalize):
    """Whatever the estimator, `selection=nonzero_advantage` drops just these."""
    rollouts = [observed(PROMPTS[1], multi, s0=anchors) for multi, anchors in groups]
    rewards = PooledRewards.of_rollouts(rollouts)
    advantages = rewards.advantages(replace(GRPO, estimator=estimator, normalize_std=normalize))
    dropped = ~select_prompts(advantages, rewards.prompt_index, "nonzero_advantage").keep
    assert RECIPE.invalid_share(rollouts) == pytest.approx(float(dropped.double().mean()))


def test_the_share_is_a_moving_average_over_steps_that_sample():
    made = sampler()
    right, mixed = observed(PROMPTS[0], [1, 1]), observed(PROMPTS[1], [1, 0])
    assert made.observe([right, mixed], 1)["invalid"] == 1 / 2
    assert made.observe([mixed], 2)["invalid"] == 0.75 / 2
    metrics = made.observe([], 3)
    assert (metrics["invalid"], metrics["round_size"]) == (0.75 / 2, 5)  # 3 / 0.625 = 4.8
    assert len(made.batch(0, frozenset())) == 5


def test_a_step_samples_more_after_prompts_were_dropped_and_carries_what_is_too_much():
    """Every second prompt always gets equal scores, so it is dropped."""
    equal = {f"p{i}" for i in range(0, 10, 2)}
    table = {key: 1.0 if key[0] in equal else score for key, score in make_table(PROMPTS, random.Random(1)).items()}
    made, rounds = parts(table, selection="nonzero_advantage"), SampledRounds("glm_rlcs:S", sampler(), SETUP)
    state, sizes, carried = SamplingState(0, ()), [], []
    for step in range(1, 13):
        result = train_step(made, rounds, state, step)
        fresh = set(names(item.prompt for item in result.rollouts))
        assert result.metrics["mars/prompts_carried"] == max(len(state.carried) + len(fresh - equal) - 3, 0)
        if result.state.round > state.round:  # else the step had enough carried prompts
            assert len(rounds.batch(result.state.round)) == result.metrics["sampler/round_size"]
        state = result.state
        sizes.append(result.metrics["sampler/round_size"])
        carried.append(len(state.carried))
    assert max(sizes) > 3
    assert max(carried) > 0
    assert max(sizes) <= 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"buckets": 0}, "buckets must be 1 or more"),
        ({"max_factor": 0.5}, "max_factor must be 1 or more"),
        ({"unseen": 2.0}, "unseen must be from 0 to 1"),
        ({"rate_decay": 1.0}, "rate_decay and invalid_decay must be from 0 to below 1"),
        ({"invalid_decay": -0.5}, "rate_decay and invalid_decay must be from 0 to below 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        RECIPE.Settings(**asdict(SETTINGS) | changes)
