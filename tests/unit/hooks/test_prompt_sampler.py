"""A user's sampler: each round decided once and checked, probes, feedback, and a state that brings all of it back."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace

import pytest

from mars.checkpoint.state import START
from mars.data.order.stream import PromptStream
from mars.errors import ConfigError
from mars.fit import fit
from mars.hooks.contract import SamplerSetup
from mars.hooks.load import load_sampler
from mars.hooks.prompt_sampler import SampledRounds
from mars.quarantine import BadPrompt, Quarantine
from mars.step import train_step
from tests.builders import make_prompt
from tests.examples import some
from tests.fakes.step import IMAGE, parts
from tests.fakes.tracker import RecordingTracker
from tests.hook_builders import NO_HOOKS
from tests.unit.hooks.test_load import recipe
from tests.unit.test_fit import without_times
from tests.unit.test_step import make_table
from tests.unit.test_step_async import CheckpointsInMemory, ahead_of, saved_and_loaded, settings

PROMPTS = [make_prompt(f"p{i}", [IMAGE] * (1 + i % 3), extra_info={"name": f"p{i}"}) for i in range(8)]
SETUP = SamplerSetup((tuple(PROMPTS[:5]), tuple(PROMPTS[5:])), None, True, 2, 4, 3)


class Hardest:
    """Draws the prompts with the lowest mean score among `size` that a seed and the round choose. Probes one prompt
    every second step. `asked`: the rounds it was asked for. Its decisions move its state: `draws` counts them."""

    def __init__(self, setup, size=6):
        self.setup, self.size = setup, size
        self.prompts = [prompt for prompts in setup.sets for prompt in prompts]
        self.means, self.draws, self.seen, self.asked = {}, 0, 0, []

    def batch(self, round, left_out):
        self.asked.append(round)
        self.draws += 1
        some = random.Random(f"{self.setup.seed}:{round}:{self.draws}:{self.seen}").sample(self.prompts, self.size)
        return sorted(some, key=lambda p: self.means.get(p.prompt_id, 0.0))[: self.setup.prompts_per_step]

    def probes(self, step):
        return [self.prompts[step % 8]] if step % 2 else []

    def observe(self, rollouts, step):
        self.seen += len(rollouts)
        for item in rollouts:
            scores = [rollout.reward.score for rollout in item.multi.valid]
            self.means[item.prompt.prompt_id] = sum(scores) / len(scores)
        return {"known": len(self.means)}

    def state(self):
        return {"means": self.means, "draws": self.draws, "seen": self.seen}

    def restore(self, state):
        self.means, self.draws, self.seen = dict(state["means"]), state["draws"], state["seen"]


def rounds_of(sampler=None) -> SampledRounds:
    return SampledRounds("own:Hardest", sampler or Hardest(SETUP), SETUP)


# --- rounds


def test_a_round_is_decided_once():
    sampler = Hardest(SETUP)
    rounds = rounds_of(sampler)
    first = rounds.batch(0)
    assert (len(rounds), rounds.prompts_per_step, len(first)) == (8, 2, 2)
    rounds.observe([], 1)
    assert rounds.batch(0) is first
    assert (rounds.batch(1), rounds.batch(1), sampler.asked) == (rounds.batch(1), rounds.batch(1), [0, 1])


@pytest.mark.parametrize("method", ["batch", "probes"])
@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (
            [PROMPTS[0], PROMPTS[1], PROMPTS[0]],
            r"own:Hardest has a prompt twice in .*; got rows\.jsonl:p0; draw without",
        ),
        ([make_prompt("other")], r"that is not in the training set; got rows\.jsonl:other; choose among setup\.sets$"),
    ],
)
def test_what_cannot_be_sampled_is_refused(method, chosen, message):
    sampler = Hardest(SETUP)
    setattr(sampler, method, lambda *given: chosen)
    with pytest.raises(ConfigError, match=rf"^recipe\.sampler: .*{message}"):
        rounds_of(sampler).probes(1, 0)


def test_a_round_is_decided_before_the_probes_of_its_step():
    """In a resumed run it was not asked for ahead, and must be the same."""
    sampler = Hardest(SETUP)
    sampler.probes = lambda step: (setattr(sampler, "seen", 99), [])[1]
    rounds = rounds_of(sampler)
    rounds.probes(1, round=0)
    assert (sampler.asked, rounds.batch(0)) == ([0], rounds_of().batch(0))


def test_the_state_has_rounds_that_are_decided_and_not_sampled():
    rounds = rounds_of()
    rounds.batch(0)
    second = rounds.batch(1)
    state = json.loads(json.dumps(rounds.state(round=1)))
    assert state["decided"] == {"1": [prompt.prompt_id for prompt in second]}
    assert rounds.state(round=2)["decided"] == {}
    again = Hardest(SETUP)
    resumed = rounds_of(again)
    resumed.restore(state)
    assert (resumed.batch(1), again.asked, again.draws) == (second, [], 2)


def test_the_state_of_another_sampler_is_refused_and_none_is_the_beginning():
    rounds = rounds_of()
    first = rounds.batch(0)
    rounds.observe([], 1)
    with pytest.raises(
        ConfigError, match=r"checkpoint has the state of vade:Sampler; got own:Hardest; resume with the"
    ):
        rounds.restore({"name": "vade:Sampler", "decided": {}, "state": {}})
    rounds.batch(1)
    rounds.restore({})
    assert rounds.batch(0) == first


# --- runs


def run_of(prompts_per_step=2, schedule="synchronous", start=START, last=7, selection="all"):
    setup = replace(SETUP, prompts_per_step=prompts_per_step)
    sampler = Hardest(setup)
    made = parts(make_table(PROMPTS, random.Random(1)), selection=selection, max_rounds=1 if selection == "all" else 3)
    config, stream, tracker = settings(last), SampledRounds("own:Hardest", sampler, setup), RecordingTracker()
    step = train_step if schedule == "synchronous" else ahead_of(config, stream, max_staleness=2)
    checkpoints = CheckpointsInMemory()
    fit(made, stream, tracker, config, None, checkpoints, start, 0, step)
    return made, without_times(tracker), checkpoints.states, sampler, tracker


def test_probes_are_sampled_without_anchors_and_not_trained_on():
    made, rows, _, sampler, tracker = run_of(last=3)
    requests = made.engine.requests
    counts = Counter((request.prompt_id, request.view, request.seed) for request in requests)
    assert set(counts.values()) == {1}, "a probe has seeds of its own"
    first = next(request for request in requests if request.prompt_id == "p1")
    assert first.view is None
    trained = [prompt.prompt_id for batch in made.trainer.batches for prompt in batch.prompts]
    assert len(trained) == 6
    logged = [item.prompt.prompt_id for _, rollouts in tracker.rollouts for item in rollouts]
    assert sorted(logged) == sorted(trained)
    assert sampler.seen == 6 + 2, "the probes of steps 1 and 3"
    timed = [("timing_s/probe" in metrics) for _, metrics in tracker.metrics]
    assert timed == [True, False, True]
    assert [row["sampler/known"] for _, row in rows][-1] == len({*trained, "p1", "p3"})


def test_the_round_read_ahead_is_decided_on_the_feedback_of_its_step():
    """Step 1 observes, then round 1 is decided for the prefetch: what was sampled in step 1 is known by then."""
    seen = []

    class Noting(Hardest):
        def batch(self, round, left_out):
            seen.append((round, sorted(self.means)))
            return super().batch(round, left_out)

    sampler = Noting(SETUP)
    made = parts(make_table(PROMPTS, random.Random(1)))
    result = train_step(made, SampledRounds("own:Noting", sampler, SETUP), START.sampling, 1)
    sampled = sorted({"p1", *(item.prompt.prompt_id for item in result.rollouts)})
    assert seen == [(0, []), (1, sampled)]


@pytest.mark.parametrize("schedule", ["synchronous", "asynchronous"])
@pytest.mark.parametrize("selection", ["all", "nonzero_advantage"])
@pytest.mark.parametrize("stopped_after", some([2, 1, 4], 1))
def test_a_resumed_run_is_the_run_that_nobody_disturbed(stopped_after, selection, schedule):
    made, rows, states, _, _ = run_of(3, schedule, selection=selection)
    state = saved_and_loaded(states[stopped_after], PROMPTS)
    again, resumed, _, _, _ = run_of(3, schedule, state, selection=selection)
    assert resumed == rows[stopped_after:]
    assert [b.prompts for b in again.trainer.batches] == [b.prompts for b in made.trainer.batches][stopped_after:]


def test_a_round_decided_long_before_it_is_sampled_is_resumed():
    """A step that trains on carried prompts alone samples no round, but the next one is decided already."""

    class Many(Hardest):
        def batch(self, round, left_out):
            self.asked.append(round)
            self.draws += 1
            return random.Random(f"{round}:{self.seen}:{self.draws}").sample(self.prompts, 6)

        def observe(self, rollouts, step):
            self.seen += 1
            return {}

    def run(start, last=6):
        made, tracker, checkpoints = (
            parts(make_table(PROMPTS, random.Random(1))),
            RecordingTracker(),
            CheckpointsInMemory(),
        )
        stream = SampledRounds("own:Many", Many(SETUP), SETUP)
        fit(made, stream, tracker, settings(last), None, checkpoints, start, 0, train_step)
        return [[p.prompt_id for p in batch.prompts] for batch in made.trainer.batches], checkpoints.states

    whole, states = run(START)
    assert len(whole) == 6
    for stopped_after in (1, 2, 3, 4):
        assert run(saved_and_loaded(states[stopped_after], PROMPTS))[0] == whole[stopped_after:]


def test_the_steps_of_both_drivers_have_the_same_prompts():
    """Scripted responses do not depend on weights, and feedback is as new with the asynchronous driver."""
    plain, _, _, _, _ = run_of()
    ahead, _, _, _, _ = run_of(schedule="asynchronous")
    assert [b.prompts for b in ahead.trainer.batches] == [b.prompts for b in plain.trainer.batches]


# --- from a file

FILE = """
class Sampler:
    def __init__(self, setup): self.setup = setup
    def batch(self, round, left_out): return self.setup.sets[0][:2]
    def probes(self, step): return ()
    def observe(self, rollouts, step): return {}
    def state(self): return {}
    def restore(self, state): ...

class Silent(Sampler):
    observe = None
"""


def test_a_sampler_is_made_from_its_file(tmp_path):
    (tmp_path / "own.py").write_text(FILE)
    rounds = load_sampler(recipe(sampler=f"{tmp_path}/own.py:Sampler"), SETUP, known=None, ramps=[])
    assert rounds is not None
    assert rounds.batch(0) == tuple(PROMPTS[:2])
    assert load_sampler(recipe(), SETUP, known=None, ramps=[]) is None
    with pytest.raises(ConfigError, match=r"^recipe\.sampler: .*own\.py:Silent makes a Silent without 'observe'"):
        load_sampler(recipe(sampler=f"{tmp_path}/own.py:Silent"), SETUP, known=None, ramps=[])


def test_a_run_without_sampler_and_rules_keeps_nothing():
    assert NO_HOOKS.snapshot({}) is None


# --- prompts that cannot be read


def test_a_sampler_is_told_which_prompts_cannot_be_read_and_a_resumed_run_tells_it_too():
    told = []

    class Told(Hardest):
        def batch(self, round, left_out):
            told.append((round, sorted(left_out)))
            return self.prompts[:2]

    rounds = rounds_of(Told(SETUP))
    rounds.batch(0)
    rounds.observe([], 1, {"p1"})
    rounds.batch(1)
    state = json.loads(json.dumps(rounds.state(round=2)))
    resumed = rounds_of(Told(SETUP))
    resumed.restore(state)
    resumed.batch(2)
    resumed.restore({})
    resumed.batch(0)
    assert told == [(0, []), (1, ["p1"]), (2, ["p1"]), (0, [])]


def test_a_step_that_samples_nothing_warns(caplog):
    class Stubborn(Hardest):
        def batch(self, round, left_out):
            return self.prompts[1:3]

    made = parts(make_table(PROMPTS, random.Random(1)))
    state = replace(START.sampling, quarantine=Quarantine(2, (BadPrompt("p1", 1, ""), BadPrompt("p2", 2, ""))))
    result = train_step(made, rounds_of(Stubborn(SETUP, 2)), state, 2)
    assert result.metrics["mars/prompts_sampled"] == 0
    assert "step 2 samples nothing: no prompt of its 1 rounds can be read" in caplog.text


def test_the_state_of_a_sampler_is_refused_by_a_run_without_one():
    with pytest.raises(ConfigError, match=r"^recipe\.sampler: the checkpoint has the state of own:Hardest; got null"):
        PromptStream(PROMPTS, 2, 0, True).restore(rounds_of().state(0))
