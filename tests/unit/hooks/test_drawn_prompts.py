"""`data/epoch` and `run.num_epochs` count the prompts that a sampler draws, whatever the size of its rounds."""

from __future__ import annotations

import random
from itertools import accumulate
from types import SimpleNamespace

import pytest

from mars.checkpoint.state import START
from mars.fit import fit
from mars.hooks.step_hooks import Named
from mars.run import _train_step
from tests.fakes.requests import with_requests
from tests.fakes.step import parts
from tests.fakes.tracker import RecordingTracker
from tests.hook_builders import step_hooks
from tests.unit.hooks.test_prompt_sampler import PROMPTS, SETUP, Hardest, rounds_of
from tests.unit.test_fit import without_times
from tests.unit.test_step import make_table
from tests.unit.test_step_async import CheckpointsInMemory, saved_and_loaded, settings

SYNCHRONOUS = {"rollout.max_staleness": 0}
schedules = pytest.mark.parametrize("schedule", [SYNCHRONOUS, {}], ids=["synchronous", "asynchronous"])


class Sizes(Hardest):
    """Rounds of these sizes, again and again. There are 8 prompts, and `data.prompts_per_step` is 2."""

    def __init__(self, sizes):
        super().__init__(SETUP)
        self.sizes = sizes

    def batch(self, round, left_out):
        some = random.Random(round).sample(self.prompts, self.sizes[round % len(self.sizes)])
        return [prompt for prompt in some if prompt.prompt_id not in left_out]

    def probes(self, step):
        return []


def run(sizes, schedule, start=START, hooks=None, **length):
    """The metrics of each step, and the states after them."""
    made = parts(make_table(PROMPTS, random.Random(1)))
    made = made if hooks is None else with_requests(made, hooks)
    config = settings(None, **schedule, **{f"run.{key}": value for key, value in length.items()})
    stream, tracker, checkpoints = rounds_of(Sizes(sizes)), RecordingTracker(), CheckpointsInMemory()
    fit(made, stream, tracker, config, None, checkpoints, start, 0, _train_step(config, stream))
    return without_times(tracker), checkpoints.states


def epochs(rows):
    return [metrics["data/epoch"] for _, metrics in rows]


@schedules
@pytest.mark.parametrize(
    ("sizes", "drawn"),
    [
        ([1], [1] * 16),
        ([2], [2] * 8),
        ([1, 2], [1, 2] * 5 + [1]),  # 16 = 5 * 3 + 1
        ([0], [2] * 8),  # a round without prompts counts as one of prompts_per_step, so that the run ends
    ],
)
def test_two_epochs_of_eight_prompts_end_when_16_are_drawn(sizes, drawn, schedule):
    rows, _ = run(sizes, schedule, num_epochs=2)
    assert epochs(rows) == pytest.approx([count / 8 for count in accumulate(drawn)])


@schedules
def test_prompts_beyond_a_step_are_drawn_in_the_step_that_has_their_round(schedule):
    """A round of 5 fills two steps and leaves one prompt, so the third step draws the next round."""
    rows, _ = run([5], schedule, num_epochs=2)
    carried = [metrics["mars/prompts_carried"] for _, metrics in rows]
    drawn = [5 * metrics["mars/rounds"] for _, metrics in rows]
    assert 0 in drawn
    assert max(carried) >= 2
    assert epochs(rows) == pytest.approx([count / 8 for count in accumulate(drawn)])
    assert sum(drawn[:-1]) < 16 <= sum(drawn)


@schedules
@pytest.mark.parametrize("sizes", [[1], [5, 1, 2]])
def test_a_resumed_run_goes_on_counting(sizes, schedule):
    rows, states = run(sizes, schedule, num_epochs=2)
    for stopped_after in (1, 2, len(rows) - 1):
        start = saved_and_loaded(states[stopped_after], PROMPTS)
        assert run(sizes, schedule, start, num_epochs=2)[0] == rows[stopped_after:]


@schedules
def test_steps_are_not_bounded_by_drawn_prompts(schedule):
    rows, _ = run([1], schedule, num_steps=3, num_epochs=None)
    assert epochs(rows) == pytest.approx([1 / 8, 2 / 8, 3 / 8])


def test_hooks_see_a_progress_below_1_in_a_run_with_more_steps_than_planned():
    seen = []
    hook = SimpleNamespace(before=lambda prompt, facts: seen.append(facts.progress) or (), after=lambda *given: ())
    run([1], SYNCHRONOUS, hooks=step_hooks(requests=Named("own:Stages", hook, None), num_steps=4), num_epochs=1)
    assert sorted(set(seen)) == [0, 0.25, 0.5, 0.75]
