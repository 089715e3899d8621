"""The step that samples ahead, with fakes: what overlaps and what waits, how old responses are, what failures do."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from functools import partial

import pytest

from mars import background, interrupts
from mars.checkpoint.state import START, state_lines
from mars.data.order.stream import PromptStream
from mars.errors import DataError, WorkerError, WorkerLost
from mars.fit import fit, is_finished
from mars.quarantine import BadPrompt, BadSamples, Quarantine, warn_of
from mars.staleness import renumbered
from mars.step_async import Overlap, train_step_async
from mars.step_parts import SamplingState
from mars.types import WeightUpdate
from tests.builders import make_prompt, train_config
from tests.fakes.engine import RecordingEngine
from tests.fakes.fit import fit_new_run
from tests.fakes.step import IMAGE, Rounds, parts
from tests.fakes.tracker import RecordingTracker
from tests.fakes.trainer import RecordingTrainer
from tests.run_states import state_from_lines
from tests.unit.test_fit import random_parts, without_times
from tests.unit.test_step import make_table

NOTHING = SamplingState(0, ())
WAIT_S = 20.0  # for another thread; a test that waits so long fails
AHEAD = {"cluster.kind": "ray", "rollout.max_staleness": 1}
OVERLAP = Overlap(max_staleness=1, is_last=lambda step, state: False)


def settings(num_steps, **more):
    return train_config(
        {"run.num_steps": num_steps, "evaluation.every": 0, "evaluation.before_training": False, **AHEAD, **more}
    )


@pytest.fixture
def prompts():
    return [make_prompt(f"p{i}", [IMAGE] * (1 + i % 3), extra_info={"name": f"p{i}"}) for i in range(8)]


def ahead_of(config, stream, max_staleness=1):
    overlap = Overlap(max_staleness, partial(is_finished, config.run, stream))
    return partial(train_step_async, overlap=overlap)


def trained(prompts, made, num_steps=4, max_staleness=1):
    """The rows of an asynchronous run."""
    config, stream, tracker = settings(num_steps), PromptStream(prompts, 2, 0, True), RecordingTracker()
    fit_new_run(made, stream, tracker, config, train_step=ahead_of(config, stream, max_staleness))
    return tracker


# --- what overlaps


class MeetingEngine(RecordingEngine):
    """Each `generate` but the first meets the update that runs beside it. `calls`: what happened, in order."""

    def __init__(self, inner, barrier, calls):
        super().__init__(inner._script, inner._eos_ids)
        self.barrier, self.calls, self.num_calls = barrier, calls, 0

    def generate(self, requests):
        self.num_calls += 1
        number = self.num_calls
        self.calls.append(f"generate {number}")
        for i, samples in enumerate(super().generate(requests)):
            if i == 0 and number > 1:
                self.barrier.wait(WAIT_S)
            yield samples
        self.calls.append(f"generated {number}")

    def load_weights(self, update):
        self.calls.append(f"load {update.version}")
        super().load_weights(update)


class MeetingTrainer(RecordingTrainer):
    def __init__(self, barrier, calls, last):
        super().__init__()
        self.barrier, self.calls, self.last = barrier, calls, last

    def update(self, batch):
        number = len(self.batches) + 1
        self.calls.append(f"update {number}")
        if number < self.last:
            self.barrier.wait(WAIT_S)  # in the middle of the update and of the sampling
        stats = super().update(batch)
        self.calls.append(f"updated {number}")
        return stats


def test_the_next_step_is_sampled_in_the_middle_of_the_update_and_weights_wait_for_both(prompts):
    """Neither goes on without the other: a step that did one after the other would never get past the barrier."""
    barrier, calls = threading.Barrier(2), []
    made = random_parts(trainer=MeetingTrainer(barrier, calls, last=3))
    made = replace(made, engine=MeetingEngine(made.engine, barrier, calls))
    tracker = trained(prompts, made, num_steps=3)
    assert [step for step, _ in tracker.metrics] == [1, 2, 3]
    assert calls[:3] == ["load 1", "generate 1", "generated 1"]
    for step in (1, 2):  # between two `load`, in whatever order
        first, end = calls.index(f"load {step}"), calls.index(f"load {step + 1}")
        beside = {f"update {step}", f"updated {step}", f"generate {step + 1}", f"generated {step + 1}"}
        assert beside <= set(calls[first:end])
    assert calls[-3:] == ["update 3", "updated 3", "load 4"]
    assert made.engine.num_calls == 3, "the last step samples nothing ahead"


@pytest.mark.parametrize("first", ["engine", "trainer"])
def test_the_weights_wait_for_the_slower_of_the_two(prompts, first):
    ended, calls = threading.Event(), []

    class Engine(RecordingEngine):
        def generate(self, requests):
            ahead = bool(self.requests)
            if ahead and first == "trainer":
                assert ended.wait(WAIT_S)
            yield from super().generate(requests)
            calls.append("generated")
            if ahead and first == "engine":
                ended.set()

        def load_weights(self, update):
            calls.append("load")
            super().load_weights(update)

    class Trainer(RecordingTrainer):
        def update(self, batch):
            if first == "engine":
                assert ended.wait(WAIT_S)
            stats = super().update(batch)
            calls.append("updated")
            ended.set()
            return stats

    made = random_parts(trainer=Trainer())
    made = replace(made, engine=Engine(made.engine._script, made.engine._eos_ids))
    train_step_async(made, Rounds(prompts, 2), NOTHING, 1, OVERLAP)
    second = ["generated", "updated"] if first == "engine" else ["updated", "generated"]
    assert calls == ["generated", *second, "load"]


def test_what_is_trained_on_is_what_a_step_without_overlap_samples(prompts):
    """Scripted responses do not depend on weights: the same prompts, seeds, rewards and advantages in the same step."""
    config, stream = settings(4), PromptStream(prompts, 2, 0, True)
    plain, plain_rows = random_parts(), RecordingTracker()
    fit_new_run(plain, stream, plain_rows, config)
    made = random_parts()
    rows = trained(prompts, made)
    assert [batch.prompts for batch in made.trainer.batches] == [batch.prompts for batch in plain.trainer.batches]
    only_here = {"rollout/staleness_mean", "rollout/staleness_max", "mars/prompts_too_old"}
    for (step, row), (plain_step, plain_row) in zip(without_times(rows), without_times(plain_rows), strict=True):
        assert step == plain_step
        assert set(row) - set(plain_row) == only_here
        assert {key: value for key, value in row.items() if key not in only_here} == plain_row
    assert [ids for ids, _ in rows.rollouts] == [1, 2, 3, 4]


# --- how old responses are


def test_responses_are_one_version_old_and_those_of_the_first_step_are_not(prompts):
    rows = [row for _, row in trained(prompts, random_parts()).metrics]
    assert [row["rollout/staleness_max"] for row in rows] == [0, 1, 1, 1]
    assert [row["rollout/staleness_mean"] for row in rows] == [0, 1, 1, 1]
    assert {row["mars/prompts_too_old"] for row in rows} == {0}


def test_staleness_is_measured_and_not_assumed(prompts):
    """An engine that keeps its first weights is found out, before a state has what it sampled with them."""

    class Deaf(RecordingEngine):
        def load_weights(self, update):
            super().load_weights(WeightUpdate(1, update.payload))

    made = random_parts()
    made = replace(made, engine=Deaf(made.engine._script, made.engine._eos_ids))
    with pytest.raises(WorkerError, match=r"are 2 versions older .* rollout.max_staleness is 1: an engine did not get"):
        trained(prompts, made)
    assert len(made.trainer.batches) == 2


def test_the_bound_holds_at_the_update_whatever_was_sampled_ahead(prompts):
    """A run that carried p5 goes on with a smaller bound. Fresh responses that are too old end it."""
    made = with_carried_prompts(prompts)
    state = SamplingState(0, (), version=1)
    for step in (1, 2):
        state = train_step_async(made, Rounds(prompts, 2), state, step, replace(OVERLAP, max_staleness=2)).state
    assert [item.carried for item in state.ahead.kept] == [True, False]
    result = train_step_async(made, Rounds(prompts, 2), state, 3, OVERLAP)
    assert [prompt.prompt_id for prompt in made.trainer.batches[-1].prompts] == ["p7"]
    assert result.metrics["rollout/staleness_max"] == 1
    assert (result.metrics["mars/prompts_kept"], result.metrics["mars/prompts_too_old"]) == (1, 1)

    old = replace(state, ahead=renumbered(replace(state, version=2), 1).ahead)
    with pytest.raises(WorkerError, match="responses to prompt p7 are 2 versions older"):
        train_step_async(made, Rounds(prompts, 2), old, 3, OVERLAP)
    assert len(made.trainer.batches) == 3


def with_carried_prompts(prompts):
    """p0 and p6 have no signal."""
    table = make_table(prompts, random.Random(0))
    table = {key: 0.5 if key[0] in ("p0", "p6") else score for key, score in table.items()}
    made = parts(table, selection="nonzero_advantage", max_rounds=3)
    made.engine.load_weights(made.trainer.publish_weights())
    return made


@pytest.mark.parametrize(
    ("bound", "trained_on", "ages", "carried"),
    [
        # Step 2 does not carry p5, and step 3 samples p1 in its place.
        (1, [["p1", "p2"], ["p3", "p4"], ["p7", "p1"]], [0, 1, 1], [(1, 0), (0, 1), (0, 0)]),
        (2, [["p1", "p2"], ["p3", "p4"], ["p5", "p7"]], [0, 1, 2], [(1, 0), (1, 0), (0, 0)]),
    ],
)
def test_carried_prompts_are_two_versions_old_and_left_out_if_that_is_too_old(
    prompts, bound, trained_on, ages, carried
):
    """Step 1 carries p3, which is as old as all of step 2: both have the first weights. What is left out is not counted
    as carried."""
    made = with_carried_prompts(prompts)
    state, rows = SamplingState(0, (), version=1), []
    for step in (1, 2, 3):
        result = train_step_async(made, Rounds(prompts, 2), state, step, replace(OVERLAP, max_staleness=bound))
        state = result.state
        rows.append(result.metrics)
    assert [[prompt.prompt_id for prompt in batch.prompts] for batch in made.trainer.batches] == trained_on
    assert [row["rollout/staleness_max"] for row in rows] == ages
    assert [(row["mars/prompts_carried"], row["mars/prompts_too_old"]) for row in rows] == carried


def test_a_step_that_trains_on_nothing_makes_no_version(prompts):
    """The step after it trains on responses of the current weights."""
    table = {key: 0.5 if key[0] in ("p0", "p1") else s for key, s in make_table(prompts, random.Random(0)).items()}
    made = parts(table, selection="nonzero_advantage")
    first = train_step_async(made, Rounds(prompts, 2), NOTHING, 1, OVERLAP)
    assert (made.trainer.batches, made.engine.updates, first.state.version) == ([], [], 0)
    assert "rollout/staleness_max" not in first.metrics
    second = train_step_async(made, Rounds(prompts, 2), first.state, 2, OVERLAP)
    assert second.metrics["rollout/staleness_max"] == 0
    assert second.state.version == 1


def test_the_stages_add_up_to_the_step_without_those_that_overlap(prompts):
    class Trainer(RecordingTrainer):
        def update(self, batch):
            return replace(super().update(batch), old_logprob_seconds=1e-9)

    made = random_parts(trainer=Trainer())
    first = train_step_async(made, Rounds(prompts, 2), NOTHING, 1, OVERLAP)
    second = train_step_async(made, Rounds(prompts, 2), first.state, 2, OVERLAP)
    for metrics in (first.metrics, second.metrics):
        stages = ("wait_rollouts", "old_log_prob", "update_actor", "sync_weights", "driver")
        assert sum(metrics[f"timing_s/{name}"] for name in stages) == pytest.approx(metrics["timing_s/step"])
        timed = {key for key in metrics if key.startswith("timing_s/")}
        assert timed - {f"timing_s/{name}" for name in (*stages, "step")} == {
            "timing_s/gen", "timing_s/reward", "timing_s/wait_update",
        }  # fmt: skip


# --- failures


class Unending(RecordingEngine):
    """Its second call yields answers for as long as it is asked. `closed`: set when that ends."""

    def __init__(self, inner):
        super().__init__(inner._script, inner._eos_ids)
        self.closed, self.begun = threading.Event(), threading.Event()

    def generate(self, requests):
        if not self.requests:
            yield from super().generate(requests)
            return
        try:
            while True:
                self.begun.set()
                yield []
        finally:
            self.closed.set()


def test_a_lost_trainer_stops_the_sampling_before_the_error_goes_on(prompts):
    class Trainer(RecordingTrainer):
        def update(self, batch):
            assert engine.begun.wait(WAIT_S)
            raise WorkerLost("actor-0 died")

    made = random_parts(trainer=Trainer())
    engine = Unending(made.engine)
    with pytest.raises(WorkerLost, match="actor-0 died"):
        train_step_async(replace(made, engine=engine), Rounds(prompts, 2), NOTHING, 1, OVERLAP)
    assert engine.closed.is_set()
    assert engine.updates == []
    assert "sampling" not in {thread.name for thread in threading.enumerate()}


def test_a_lost_trainer_stops_the_scoring_of_what_is_sampled_already(prompts):
    """A judge may take minutes for it."""
    scoring, stopped = threading.Event(), []

    class Trainer(RecordingTrainer):
        def update(self, batch):
            assert scoring.wait(WAIT_S)
            raise WorkerLost("actor-0 died")

    class Scorer:
        def __init__(self, inner):
            self.inner, self.num_calls = inner, 0

        def score(self, items):
            self.num_calls += 1
            if self.num_calls == 1:
                return self.inner.score(items)
            list(items)
            scoring.set()
            try:
                while True:
                    background.check()
            finally:
                stopped.append(True)

    made = random_parts(trainer=Trainer())
    made = replace(made, scorer=Scorer(made.scorer))
    with pytest.raises(WorkerLost, match="actor-0 died"):
        train_step_async(made, Rounds(prompts, 2), NOTHING, 1, OVERLAP)
    assert stopped == [True]


def test_a_run_that_must_end_gives_the_sampling_up_and_saves_the_update(prompts, monkeypatch, caplog):
    """Half of the grace time has passed. The engine is still busy, so it gets no weights: that would take time too."""
    updated = threading.Event()
    monkeypatch.setattr(interrupts, "is_urgent", updated.is_set)

    class Trainer(RecordingTrainer):
        def update(self, batch):
            assert engine.begun.wait(WAIT_S)
            updated.set()
            return super().update(batch)

    made = random_parts(trainer=Trainer())
    engine = Unending(made.engine)
    made = replace(made, engine=engine)
    result = train_step_async(made, Rounds(prompts, 2), SamplingState(0, (), version=0), 1, OVERLAP)
    assert engine.closed.is_set()
    assert engine.updates == []
    assert (result.state.round, result.state.ahead, result.state.version) == (1, None, 1)
    assert result.metrics["timing_s/wait_update"] == 0
    assert "step 2 is not sampled ahead" in caplog.text


class Failing(RecordingEngine):
    """Its second call fails."""

    def generate(self, requests):
        if self.requests:
            raise DataError("gone.png: no such image")
        yield from super().generate(requests)


def test_a_failed_sampling_ends_the_step_after_the_update(prompts):
    made = random_parts()
    made = replace(made, engine=Failing(made.engine._script, made.engine._eos_ids))
    with pytest.raises(DataError, match=r"gone\.png"):
        train_step_async(made, Rounds(prompts, 2), NOTHING, 1, OVERLAP)
    assert len(made.trainer.batches) == 1
    assert made.engine.updates == []


def test_if_both_fail_the_trainers_error_goes_on_and_the_other_is_logged(prompts, caplog):
    """A lost trainer can be built again."""
    failed = threading.Event()

    class Engine(Failing):
        def generate(self, requests):
            try:
                yield from super().generate(requests)
            except DataError:
                failed.set()
                raise

    class Trainer(RecordingTrainer):
        def update(self, batch):
            assert failed.wait(WAIT_S)
            raise WorkerLost("actor-0 died")

    made = random_parts(trainer=Trainer())
    made = replace(made, engine=Engine(made.engine._script, made.engine._eos_ids))
    with pytest.raises(WorkerLost, match="actor-0 died"):
        train_step_async(made, Rounds(prompts, 2), NOTHING, 1, OVERLAP)
    assert "sampling: failed too: gone.png: no such image" in caplog.text


def test_images_lost_on_both_sides_make_one_quarantine(prompts):
    """Beside update 1 the trainer cannot read p1, and the engine cannot read p1 and p2, sampled for step 2."""
    made = random_parts()
    made.trainer.unreadable = {"p1": "p1.png: gone"}
    made = replace(made, bad_samples=BadSamples(1.0, 100, {p.prompt_id: p for p in prompts}, warn_of))
    rounds = Rounds([prompts[i] for i in (0, 1, 1, 2)], 2)

    class Engine(RecordingEngine):
        def load_weights(self, update):
            super().load_weights(update)
            self.unreadable = {}

        def generate(self, requests):
            if self.requests:
                self.unreadable = {("p1", None): "p1.png: cut", ("p2", None): "p2.png: cut"}
            yield from super().generate(requests)

    made = replace(made, engine=Engine(made.engine._script, made.engine._eos_ids))
    state = train_step_async(made, rounds, NOTHING, 1, OVERLAP).state
    lost = BadPrompt("p1", 2, "p1.png: gone")
    assert state.quarantine == Quarantine(2, (lost,))
    assert state.ahead.state.quarantine == Quarantine(4, (lost, BadPrompt("p2", 4, "p2.png: cut")))
    made.trainer.unreadable = {}
    after = train_step_async(made, rounds, state, 2, OVERLAP).state
    assert after.quarantine == state.ahead.state.quarantine


def test_too_many_lost_images_of_both_sides_together_end_the_run(prompts):
    made = random_parts()
    made.trainer.unreadable = {"p1": "p1.png: gone"}
    made.engine.unreadable = {("p2", None): "p2.png: gone"}
    by_id = {p.prompt_id: p for p in prompts}
    made = replace(made, bad_samples=BadSamples(0.125, 8, by_id, warn_of))  # 1 of 8
    with pytest.raises(DataError, match=r"rows\.jsonl:p2: step 2: .* 2 of 8 consecutive prompts"):
        train_step_async(made, Rounds(prompts, 2), NOTHING, 1, OVERLAP)


# --- a run that goes on


def saved_and_loaded(state, prompts):
    """As a checkpoint does it."""
    return state_from_lines(state_lines(state), {prompt.prompt_id: prompt for prompt in prompts})


@pytest.mark.parametrize("selection", ["all", "nonzero_advantage"])
@pytest.mark.parametrize("stopped_after", [1, 2, 3])
def test_a_resumed_run_is_the_run_that_nobody_disturbed(prompts, stopped_after, selection):
    """With what was sampled ahead, and carried prompts into it and out of it. The trainer counts versions anew."""
    table = make_table(prompts, random.Random(1))
    table = {key: 0.5 if key[0] == "p1" else score for key, score in table.items()}

    def run(start, last):
        made = parts(table, selection=selection, max_rounds=1 if selection == "all" else 3)
        config, stream, tracker = settings(last), PromptStream(prompts, 3, 0, True), RecordingTracker()
        with_checkpoints = CheckpointsInMemory()
        step = ahead_of(config, stream, max_staleness=2)
        fit(made, stream, tracker, config, None, with_checkpoints, start, 0, step)
        return tracker, with_checkpoints.states

    whole, states = run(START, 6)
    state = saved_and_loaded(states[stopped_after], prompts)
    assert state == replace(states[stopped_after], sampling=renumbered(states[stopped_after].sampling, 0))
    assert state.sampling.ahead is not None
    rest, resumed = run(state, 6)
    assert without_times(rest) == without_times(whole)[stopped_after:]
    assert len(rest.rollouts) == 6 - stopped_after
    for step, after in resumed.items():
        assert list(state_lines(after)) == list(state_lines(states[step]))
    if selection != "all":
        assert state.sampling.ahead.state.carried
        assert [item.carried for item in state.sampling.ahead.kept].count(True) == len(state.sampling.carried) > 0


class CheckpointsInMemory:
    """Keeps the state after each step, without times: they differ."""

    failures = 0

    def __init__(self):
        self.states = {}

    def save_if_due(self, state):
        self.states[state.step] = replace(state, metrics={}, sampling=timeless(state.sampling))

    def save_now(self, state):
        self.save_if_due(state)


def timeless(sampling):
    if sampling.ahead is None:
        return sampling
    metrics = {key: value for key, value in sampling.ahead.metrics.items() if not key.startswith("timing_s/")}
    return replace(sampling, ahead=replace(sampling.ahead, metrics=metrics))
