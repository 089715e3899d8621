"""Runs with hooks that are resumed with the other schedule: hooks are asked, and told, once of each step."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from mars.checkpoint.state import START
from mars.fit import fit
from mars.hooks.prompt_sampler import SampledRounds
from mars.step import train_step
from tests.fakes.step import parts
from tests.fakes.tracker import RecordingTracker
from tests.unit.hooks.test_hooked_runs import hooked
from tests.unit.hooks.test_prompt_sampler import PROMPTS, SETUP, Hardest
from tests.unit.test_step import make_table
from tests.unit.test_step_async import CheckpointsInMemory, ahead_of, saved_and_loaded, settings

LAST = 6


def run(schedule, start=START):
    """The prompts of each step, the states after them, and the sampler."""
    sampler, checkpoints = Hardest(SETUP), CheckpointsInMemory()
    made = hooked(parts(make_table(PROMPTS, random.Random(1))), LAST)
    stream = SampledRounds("own:Hardest", sampler, SETUP)
    ahead = schedule == "asynchronous"
    config = settings(LAST, **({} if ahead else {"rollout.max_staleness": 0}))
    step = ahead_of(config, stream, max_staleness=2) if ahead else train_step
    fit(made, stream, RecordingTracker(), config, None, checkpoints, start, 0, step)
    batches = [[(p.prompt_id, p.responses) for p in batch.prompts] for batch in made.trainer.batches]
    return batches, checkpoints.states, sampler


@pytest.mark.parametrize("stopped_after", [1, 2, 5])
@pytest.mark.parametrize("before", ["synchronous", "asynchronous"])
def test_the_other_schedule_goes_on_as_the_run_began(before, stopped_after):
    """Scripted responses do not depend on weights, so both schedules train on the same."""
    whole, states, sampler = run(before)
    after = "synchronous" if before == "asynchronous" else "asynchronous"
    state = saved_and_loaded(states[stopped_after], PROMPTS)
    assert (state.sampling.ahead is not None) == (before == "asynchronous")
    resumed, resumed_states, again = run(after, state)
    assert resumed == whole[stopped_after:]
    assert (again.seen, again.means) == (sampler.seen, sampler.means)
    assert rule_of(resumed_states[LAST]) == rule_of(states[LAST])


def rule_of(state):
    return json.loads(state.sampling.hooks or "")["advantage"]


def test_what_was_sampled_ahead_is_not_saved_again_by_a_synchronous_run():
    _, states, _ = run("asynchronous")
    _, resumed, _ = run("synchronous", replace(states[2], logged=True))
    assert [state.sampling.ahead for state in resumed.values()] == [None] * len(resumed)
