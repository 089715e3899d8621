"""The loop around the step, with fakes."""

from __future__ import annotations

import logging
import math
from dataclasses import replace

import pytest

from mars.data.order.stream import PromptStream
from mars.fit import _SilentSteps, last_step
from mars.rollout.scripted import random_script
from mars.types import RewardResult
from tests.builders import altered, make_prompt, train_config
from tests.fakes.engine import RecordingEngine
from tests.fakes.fit import fit_new_run
from tests.fakes.step import EOS, IMAGE, parts
from tests.fakes.tracker import RecordingTracker
from tests.fakes.trainer import RecordingTrainer

SETTINGS = train_config({"run.num_steps": 3, "evaluation.every": 0, "evaluation.before_training": False})


class LengthScorer:
    """Longer answers score higher."""

    def score(self, items):
        return [RewardResult(len(i.response) / 50, 0.0, {"length": len(i.response)}) for i in items]

    def close(self):
        pass


@pytest.fixture
def prompts():
    return [make_prompt(f"p{i}", [IMAGE] * (1 + i % 3)) for i in range(7)]


def random_parts(seed=3, trainer=None):
    """Responses drawn from the requests' seeds."""
    made = parts({}, trainer=trainer)
    return replace(
        made,
        engine=RecordingEngine(random_script([3, 4, 5, 6], EOS), [EOS]),
        scorer=LengthScorer(),
        decode=lambda ids: " ".join(map(str, ids)),
        plan=replace(made.plan, seed=seed),
    )


def train(prompts, seed=3, settings=SETTINGS, evaluate=None, made=None, tracker=None):
    tracker, made = tracker or RecordingTracker(), made or random_parts(seed)
    fit_new_run(made, PromptStream(prompts, 3, seed, True), tracker, settings, evaluate, num_dropped=4)
    return made, tracker


def without_times(tracker):
    return [
        (step, {key: value for key, value in metrics.items() if not key.startswith(("timing_s/", "perf/"))})
        for step, metrics in tracker.metrics
    ]


def test_the_same_seed_gives_the_same_metrics_and_another_seed_others(prompts):
    _, first = train(prompts)
    _, second = train(prompts)
    _, other = train(prompts, seed=4)
    assert len(without_times(first)[0][1]) > 20
    assert without_times(first) == without_times(second)
    assert first.rollouts == second.rollouts
    assert without_times(first) != without_times(other)
    assert all(math.isfinite(value) for _, metrics in first.metrics for value in metrics.values())


def test_steps_count_from_one_and_log_epoch_and_dropped_rows(prompts):
    made, tracker = train(prompts)
    assert [step for step, _ in tracker.metrics] == [1, 2, 3]
    assert [step for step, _ in tracker.rollouts] == [1, 2, 3]
    assert [metrics["data/epoch"] for _, metrics in tracker.metrics] == pytest.approx([3 / 7, 6 / 7, 9 / 7])
    assert {metrics["data/dropped"] for _, metrics in tracker.metrics} == {4}
    assert not tracker.closed  # the caller's
    stream = PromptStream(prompts, 3, 3, True)
    for step, rollouts in tracker.rollouts:
        assert [item.prompt for item in rollouts] == list(stream.batch(step - 1))
    # The engine serves the trainer's weights from the start.
    assert [(u.version, u.payload["updates"]) for u in made.engine.updates] == [(1, 0), (2, 1), (3, 2), (4, 3)]


def test_evaluation_comes_before_every_so_many_steps_and_after_the_last(prompts):
    made, asked = random_parts(), []

    def evaluate(step):
        asked.append((step, made.engine.updates[-1].version))
        return {"eval/multi/mean": step / 10}

    settings = train_config({"run.num_steps": 5, "evaluation.every": 2, "evaluation.before_training": True})
    _, tracker = train(prompts, settings=settings, evaluate=evaluate, made=made)
    assert asked == [(0, 1), (2, 3), (4, 5), (5, 6)]  # with the weights after the step
    assert tracker.metrics[0] == (0, {"eval/multi/mean": 0.0})
    assert {step: m.get("eval/multi/mean") for step, m in tracker.metrics} == {
        0: 0.0, 1: None, 2: 0.2, 3: None, 4: 0.4, 5: 0.5,
    }  # fmt: skip
    asked.clear()
    epochs = {"run.num_steps": None, "run.num_epochs": 1, "evaluation.every": 50, "evaluation.before_training": False}
    train(prompts, settings=train_config(epochs), evaluate=evaluate, made=random_parts())
    assert [step for step, _ in asked] == [3]  # 7 prompts by threes
    asked.clear()
    train(prompts, settings=SETTINGS, evaluate=evaluate, made=random_parts())  # evaluation.every=0
    assert asked == []
    _, tracker = train(prompts, settings=settings, evaluate=None)
    assert [step for step, _ in tracker.metrics] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("epochs", "steps"), [(1, 3), (2, 5), (3, 7)]
)  # 7 prompts by threes: every prompt was shown `epochs` times
def test_epochs_to_steps(prompts, epochs, steps):
    stream = PromptStream(prompts, 3, 0, True)
    assert last_step(altered(SETTINGS.run, num_steps=None, num_epochs=epochs), stream) == steps
    shown = [p.prompt_id for step in range(steps) for p in stream.batch(step)]
    assert min(shown.count(p.prompt_id) for p in prompts) >= epochs


def test_a_number_of_steps_wins_over_epochs(prompts):
    stream = PromptStream(prompts, 3, 0, True)
    assert last_step(altered(SETTINGS.run, num_steps=2, num_epochs=9), stream) == 2
    with pytest.raises(ValueError, match="num_steps"):
        last_step(altered(SETTINGS.run, num_steps=None, num_epochs=None), stream)


@pytest.mark.parametrize(("difference", "warned"), [(0.1, False), (0.5, False), (0.6, True), (math.nan, True)])
def test_engine_and_trainer_that_differ_are_said_loudly(prompts, caplog, difference, warned):
    class Differing(RecordingTrainer):
        def update(self, batch):
            stats = super().update(batch)
            return replace(stats, metrics={**stats.metrics, "rollout/logprob_diff_max": difference})

    with caplog.at_level(logging.WARNING, logger="mars.fit"):
        train(
            prompts, made=random_parts(trainer=Differing()), settings=train_config(num_steps=1, logprob_diff_alarm=0.5)
        )
    assert ("rollout.logprob_diff_alarm" in caplog.text) is warned


class AlikeScorer(LengthScorer):
    """All answers score the same until a number of them is scored."""

    def __init__(self, until):
        self._left = until

    def score(self, items):
        items = list(items)
        self._left -= len(items)
        return [replace(result, score=0.25) if self._left >= 0 else result for result in super().score(items)]


@pytest.mark.parametrize(("alike", "steps", "warned"), [(math.inf, 12, [5]), (0, 12, []), (math.inf, 4, [])])
def test_five_steps_in_a_row_without_signal_are_said_once(prompts, caplog, alike, steps, warned):
    trainer = RecordingTrainer()
    made = replace(random_parts(trainer=trainer), scorer=AlikeScorer(alike))
    settings = altered(SETTINGS, run=altered(SETTINGS.run, num_steps=steps))
    with caplog.at_level(logging.WARNING, logger="mars.fit"):
        train(prompts, settings=settings, made=made)
    found = [record.getMessage() for record in caplog.records if "nothing was learnt" in record.getMessage()]
    assert [int(text.split()[1].rstrip(":")) for text in found] == warned


def test_a_step_with_signal_or_with_a_gradient_of_another_term_ends_the_row(caplog):
    silent = _SilentSteps()
    none = {"mars/frac_zero_signal": 1.0, "actor/grad_norm": 0.0}
    rows = [none] * 4 + [{**none, "mars/frac_zero_signal": 0.5}] + [none] * 4 + [{**none, "actor/grad_norm": 0.1}]
    for step, row in enumerate(rows + [none] * 4, 1):
        silent.note(row, step)
    assert caplog.records == []
    silent.note(none, 15)
    silent.note(none, 16)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["step 15"]


def test_an_error_in_a_step_stops_the_loop(prompts):
    class Broken(RecordingTrainer):
        def update(self, batch):
            if len(self.batches) == 1:
                raise RuntimeError("lost")
            return super().update(batch)

    tracker = RecordingTracker()
    with pytest.raises(RuntimeError, match="lost"):
        train(prompts, made=random_parts(trainer=Broken()), tracker=tracker)
    assert [step for step, _ in tracker.metrics] == [1]
