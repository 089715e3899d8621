"""Runs with hooks on fakes: what reaches the trainer, and that a resumed run is the run that nobody disturbed."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from functools import partial

import pytest

from mars.checkpoint.state import START
from mars.data.order.stream import PromptStream
from mars.fit import fit
from mars.hooks.step_hooks import Named
from mars.step import train_step
from tests.builders import make_prompt
from tests.fakes.step import GRPO, IMAGE, one_step, parts
from tests.fakes.tracker import RecordingTracker
from tests.hook_builders import step_hooks
from tests.unit.test_fit import without_times
from tests.unit.test_step import make_table
from tests.unit.test_step_async import CheckpointsInMemory, ahead_of, saved_and_loaded, settings


@pytest.fixture
def prompts():
    return [make_prompt(f"p{i}", [IMAGE] * (1 + i % 3), extra_info={"name": f"p{i}"}) for i in range(8)]


class Longest:
    """Half a point for the longest response: the last of four."""

    part, on = "longest", "multi"

    def __call__(self, item, facts):
        return [0.5 * (rollout.index == 3) for rollout in item.multi.rollouts]


class Damped:
    """Divides the values by 1 + how often the prompt was trained on before."""

    def __init__(self):
        self.counts = {}

    def __call__(self, base, kept, facts):
        divisors = [1 + self.counts.get(item.prompt.prompt_id, 0) for item in kept for _ in item.multi.valid]
        for item in kept:
            self.counts[item.prompt.prompt_id] = self.counts.get(item.prompt.prompt_id, 0) + 1
        return replace(base, values=base.values / base.values.new_tensor(divisors))

    def state(self):
        return self.counts  # the live dictionary: a checkpoint must not see what comes later

    def restore(self, state):
        self.counts = dict(state)


def hooked(made, num_steps=6):
    rules = (Named("own:Damped", Damped(), None),)
    hooks = step_hooks(shaping=(Named("own:Longest", Longest(), None),), advantage=rules, num_steps=num_steps)
    return replace(made, hooks=replace(hooks, initial=hooks.snapshot({})))


def test_a_shaped_score_is_what_advantages_are_computed_from(prompts):
    table = {key: 0.25 * (key[2] % 2) for key in make_table(prompts[1:2], random.Random(0))}
    made = hooked(parts(table))
    result = one_step(made, prompts[1:2])
    (item,) = result.rollouts
    assert [rollout.reward.score for rollout in item.multi.rollouts] == [0, 0.25, 0, 0.75]
    pool = [0, 0.25, 0, 0.75, 0, 0.25, 0, 0.25]  # with two anchors of each of two sources
    mean = sum(pool) / 8
    std = (sum((r - mean) ** 2 for r in pool) / 7) ** 0.5
    trained = made.trainer.batches[0].prompts[0].responses
    assert [r.advantage for r in trained] == pytest.approx([(r - mean) / (std + 1e-6) for r in pool[:4]])
    assert result.metrics["reward/longest/mean"] == 0.125


def test_with_part_weights_a_shaping_is_added_beside_the_normalised_parts(prompts):
    """The table's part alone is normalised. The last response's half a point is only centred, over the whole pool."""
    table = {key: 0.25 * (key[2] % 2) for key in make_table(prompts[1:2], random.Random(0))}
    made = hooked(parts(table, part_weights={"part": 1.0}))
    one_step(made, prompts[1:2])
    std = (8 * 0.125**2 / 7) ** 0.5
    plain = [(r - 0.125) / (std + 1e-6) for r in (0, 0.25, 0, 0.25)]
    wanted = [a + 0.5 * (k == 3) - 0.5 / 8 for k, a in enumerate(plain)]
    scale = (sum(a * a for a in wanted) / 3) ** 0.5 + GRPO.epsilon
    trained = made.trainer.batches[0].prompts[0].responses
    assert [r.advantage for r in trained] == pytest.approx([a / scale for a in wanted])


def test_a_rule_gets_carried_prompts_as_they_were_before_any_rule(prompts):
    """Three prompts are kept and one is trained on in each step. Damped sees each when it is trained on."""
    table = make_table(prompts, random.Random(1))
    made = hooked(parts(table, selection="nonzero_advantage", max_rounds=1))
    stream = PromptStream(prompts[:3], 3, 0, shuffle=False)
    stream.prompts_per_step = 1  # rounds of three, of which a step trains on one
    stream.batch = lambda step: prompts[:3]
    state, seen = START.sampling, []
    for step in (1, 2, 3, 4):
        result = train_step(made, stream, state, step)
        state = result.state
        (prompt,) = made.trainer.batches[-1].prompts
        seen.append((prompt.prompt_id, prompt.carried, tuple(r.advantage for r in prompt.responses)))
    assert [(name, carried) for name, carried, _ in seen] == [("p0", False), ("p1", True), ("p2", True), ("p0", False)]
    assert seen[3][2] == pytest.approx([a / 2 for a in seen[0][2]])
    assert json.loads(state.hooks or "")["advantage"] == {"own:Damped": {"p0": 2, "p1": 1, "p2": 1}}


@pytest.mark.parametrize("schedule", ["synchronous", "asynchronous"])
@pytest.mark.parametrize("selection", ["all", "nonzero_advantage"])
@pytest.mark.parametrize("stopped_after", [1, 3])
def test_a_resumed_run_is_the_run_that_nobody_disturbed(prompts, stopped_after, selection, schedule):
    """Of metrics, of what the trainer got, and of the state after each step."""
    table = make_table(prompts, random.Random(1))

    def run(start, last):
        made = hooked(parts(table, selection=selection, max_rounds=1 if selection == "all" else 3), last)
        config, stream, tracker = settings(last), PromptStream(prompts, 3, 0, True), RecordingTracker()
        step = train_step if schedule == "synchronous" else ahead_of(config, stream, max_staleness=2)
        checkpoints = CheckpointsInMemory()
        fit(made, stream, tracker, config, None, checkpoints, start, 0, step)
        return without_times(tracker), [batch.prompts for batch in made.trainer.batches], checkpoints.states

    rows, batches, states = run(START, 6)
    state = saved_and_loaded(states[stopped_after], prompts)
    assert state.sampling.hooks == states[stopped_after].sampling.hooks
    resumed_rows, resumed_batches, resumed_states = run(state, 6)
    assert resumed_rows == rows[stopped_after:]
    assert resumed_batches == batches[stopped_after:]
    assert {step: after.sampling.hooks for step, after in resumed_states.items()} == {
        step: after.sampling.hooks for step, after in states.items() if step > stopped_after
    }
    assert rows[5][1]["critic/advantages/size_after_rules"] < rows[5][1]["critic/advantages/size_before_rules"], (
        "a rule that does nothing"
    )


def test_a_run_that_starts_again_begins_with_fresh_rules(prompts):
    """Without a checkpoint after a lost worker, `fit` is called again with the same hooks."""
    made = hooked(parts(make_table(prompts, random.Random(1))))
    again = partial(fit, made, PromptStream(prompts, 8, 0, True))
    trackers = [RecordingTracker(), RecordingTracker()]
    for tracker in trackers:
        again(tracker, settings(2), None, CheckpointsInMemory(), START, 0, train_step)
    first, second = map(without_times, trackers)
    assert [row["critic/advantages/size_after_rules"] for _, row in first] == [
        row["critic/advantages/size_after_rules"] for _, row in second
    ]
