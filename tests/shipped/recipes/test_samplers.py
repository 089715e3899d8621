"""What holds for every sampler of the training files: no repeats in a batch, and a state that brings back the same."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.errors import ConfigError
from mars.hooks.prompt_sampler import SampledRounds
from tests.builders import make_prompt
from tests.examples import examples
from tests.shipped.recipes.sampler_runs import PROMPTS, SAMPLERS, SETUP, observed, rounds_of, run, sampler_of
from tests.unit.test_fit import without_times
from tests.unit.test_step_async import saved_and_loaded

samplers = pytest.mark.parametrize(("folder", "experiment"), SAMPLERS, ids=[name for _, name in SAMPLERS])
some = examples(8)


def step_of(sampler, step, seed):
    """What a step asks of a sampler: its prompts, its probes, and the metrics of what it is shown."""
    rng = random.Random(f"{seed}:{step}")
    left_out = frozenset(prompt.prompt_id for prompt in rng.sample(PROMPTS, rng.randrange(3)))
    prompts, probes = list(sampler.batch(step - 1, left_out)), list(sampler.probes(step))
    for shown in [probes] * bool(probes) + [prompts]:
        rollouts = [observed(p, rng.choices([0, 0.3, 1, None], k=4), seed=step) for p in shown]
        metrics = sampler.observe(rollouts, step)
    return prompts, probes, metrics, left_out


@samplers
@some
@given(seed=st.integers(0, 10**6), stopped_after=st.integers(0, 6))
def test_a_restored_state_gives_the_same_batches_probes_and_metrics(folder, experiment, seed, stopped_after):
    """In a new object, and in one that has observed something else meanwhile."""
    whole = sampler_of(folder, experiment)
    for step in range(1, stopped_after + 1):
        step_of(whole, step, seed)
    state = json.dumps(whole.state())
    new, other = sampler_of(folder, experiment), sampler_of(folder, experiment)
    for step in (1, 2):
        step_of(other, step, seed + 1)
    expected = [step_of(whole, step, seed) for step in range(stopped_after + 1, stopped_after + 4)]
    for resumed in (new, other):
        resumed.restore(json.loads(state))
        assert json.dumps(resumed.state()) == state
        assert [step_of(resumed, step, seed) for step in range(stopped_after + 1, stopped_after + 4)] == expected


@samplers
@some
@given(seed=st.integers(0, 10**6))
def test_batches_have_different_prompts_that_can_be_read_and_metrics_are_numbers(folder, experiment, seed):
    sampler = sampler_of(folder, experiment)
    for step in range(1, 8):
        prompts, probes, metrics, left_out = step_of(sampler, step, seed)
        ids = [prompt.prompt_id for prompt in prompts]
        assert len(set(ids)) == len(ids) >= min(SETUP.prompts_per_step, len(PROMPTS) - len(left_out))
        assert not set(ids) & left_out
        assert all(prompt in PROMPTS for prompt in [*prompts, *probes])
        assert all(value == value and abs(value) < 1e6 for value in metrics.values())


@samplers
@some
@given(seed=st.integers(0, 10**6), kept=st.sets(st.integers(0, 9)))
def test_a_state_may_name_prompts_that_are_gone_and_lack_new_ones(folder, experiment, seed, kept):
    whole = sampler_of(folder, experiment)
    for step in range(1, 5):
        step_of(whole, step, seed)
    left = (*(PROMPTS[i] for i in sorted(kept)), *(make_prompt(f"new{i}") for i in range(4)))
    resumed = rounds_of(folder, experiment, replace(SETUP, sets=(left,)))
    resumed._sampler.restore(json.loads(json.dumps(whole.state())))
    before = json.dumps(resumed.state(0))
    for round in range(4):
        assert len(resumed.batch(round)) >= SETUP.prompts_per_step  # checked: all different, all in the data
    assert all(probe in left for probe in resumed.probes(1, 3))
    assert not any(f'"p{i}"' in before for i in set(range(10)) - kept)


@samplers
@pytest.mark.parametrize("schedule", ["synchronous", "asynchronous"])
@pytest.mark.parametrize("selection", ["all", "nonzero_advantage"])
def test_a_resumed_run_is_the_run_that_nobody_disturbed(folder, experiment, schedule, selection):
    whole, states, tracker = run(folder, experiment, schedule, selection)
    rows = without_times(tracker)
    assert len(whole) == len(rows) == 6
    assert any(key.startswith("sampler/") for key in rows[-1][1])
    for stopped_after in (1, 3, 5):
        state = saved_and_loaded(states[stopped_after], PROMPTS)
        batches, _, resumed = run(folder, experiment, schedule, selection, state)
        assert batches == whole[stopped_after:]
        assert without_times(resumed) == rows[stopped_after:]


@samplers
def test_rounds_differ_and_so_do_seeds(folder, experiment):
    def batches(seed):
        sampler = sampler_of(folder, experiment, replace(SETUP, seed=seed))
        return [[prompt.prompt_id for prompt in sampler.batch(round, frozenset())] for round in range(8)]

    assert batches(1) == batches(1) != batches(2)
    assert len({tuple(batch) for batch in batches(1)}) > 4


@samplers
def test_fewer_prompts_than_a_step_has_are_refused_before_the_run(folder, experiment):
    assert len(rounds_of(folder, experiment, replace(SETUP, prompts_per_step=len(PROMPTS))).batch(0)) == len(PROMPTS)
    with pytest.raises(ConfigError, match=r"^data\.prompts_per_step: .* got 11 with 10 prompts"):
        rounds_of(folder, experiment, replace(SETUP, prompts_per_step=len(PROMPTS) + 1))


@samplers
def test_the_state_names_only_prompts_that_were_observed(folder, experiment):
    sampler = sampler_of(folder, experiment)
    sampler.batch(0, frozenset())
    assert not any(f'"{prompt.prompt_id}"' in json.dumps(sampler.state()) for prompt in PROMPTS)
    sampler.observe([observed(PROMPTS[3], [1, 0, 1, 0]), observed(PROMPTS[7], [None] * 4)], 1)
    named = [prompt.prompt_id for prompt in PROMPTS if f'"{prompt.prompt_id}"' in json.dumps(sampler.state())]
    assert named == ["p3"]


def test_samplers_are_found():
    assert {"vade", "mmr1_vas", "glm_rlcs"} <= {folder.name for folder, _ in SAMPLERS}
    assert isinstance(rounds_of(*SAMPLERS[0]), SampledRounds)
