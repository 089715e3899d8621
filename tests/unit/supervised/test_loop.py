"""The loop of a cold start, with a fake trainer: what a step writes, and the held-out loss."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from mars.checkpoint.state import START
from mars.config.load import load_config
from mars.data.order.stream import PromptStream
from mars.data.prompts.prepare import PromptSet
from mars.supervised.loop import SupervisedParts, fit_supervised, held_out_loss
from mars.train_types import TrainBatch, TrainPrompt, TrainResponse
from tests.builders import IMAGE, make_prompt
from tests.fakes.tracker import RecordingTracker


def batch_of(*rows):
    """rows: (number of images, number of response tokens)."""
    prompts = [
        TrainPrompt(f"p{i}", (1, 2), 2, (IMAGE,) * images, (TrainResponse((5,) * tokens, (), 1.0, 1.0),), 1.0)
        for i, (images, tokens) in enumerate(rows)
    ]
    return TrainBatch(tuple(prompts), ())


class Trainer:
    """The loss of a response is its number of images, plus 1, for each token."""

    def __init__(self):
        self.steps = 0

    def update(self, batch):
        self.steps += 1
        return {"sft/loss": 1 / self.steps}

    def losses(self, batch):
        return [(len(p.images) + 1.0) * len(p.responses[0].token_ids) for p in batch.prompts]


class Saves:
    """Checkpoints that are never written; keeps the states."""

    failures = 0

    def __init__(self):
        self.due, self.now = [], []

    def save_if_due(self, state):
        self.due.append(state.step)

    def save_now(self, state):
        self.now.append(state)


BATCH = batch_of((2, 3), (1, 1))
HELD_OUT = [batch_of((2, 3), (1, 1)), batch_of((1, 4), (0, 2))]


def parts_of(held_out=True):
    prompts = [make_prompt(f"p{i}") for i in range(4)]
    batches = SimpleNamespace(of_step=lambda stream, step: BATCH, held_out=lambda prompts: iter(HELD_OUT))
    rows = PromptSet(tuple(prompts), {}, "", {}) if held_out else None
    return SupervisedParts(Trainer(), batches, PromptStream(prompts, 2, 0, True), rows)


def config_of(*overrides):
    return load_config("sft", ["data.train_files=[x]", "run.num_steps=5", *overrides], [])


def test_the_held_out_loss_is_the_mean_over_tokens():
    """3 tokens of loss 3 each, 1 of 2, 4 of 2, 2 of 1: (9 + 2 + 8 + 2) / 10; of one image (2 + 8) / 5."""
    assert held_out_loss(parts_of()) == {
        "eval/loss": 2.1,
        "eval/multi/loss": 3.0,
        "eval/mono/loss": 2.0,
        "eval/text/loss": 1.0,
    }


@pytest.mark.parametrize(
    ("eval_every", "held_out", "rows", "evaluated"),
    [(2, True, [2, 3, 4, 5], [2, 4, 5]), (0, True, [3, 5], [5]), (2, False, [3, 5], [])],
)
def test_rows_are_written_when_they_are_due_and_with_every_held_out_loss(eval_every, held_out, rows, evaluated):
    tracker, saves = RecordingTracker(), Saves()
    end = fit_supervised(
        parts_of(held_out),
        tracker=tracker,
        checkpoints=saves,
        start=START,
        config=config_of("sft.log_every=3", "data.eval_files=[y]", f"sft.eval_every={eval_every}"),
        num_dropped=1,
    )
    assert [step for step, _ in tracker.metrics] == rows
    assert [step for step, metrics in tracker.metrics if "eval/loss" in metrics] == evaluated
    assert (end.step, end.sampling.round, saves.due, saves.now) == (5, 5, [1, 2, 3, 4, 5], [end])
    last = dict(tracker.metrics)[5]
    assert (last["sft/loss"], last["sft/mono_share"], last["data/epoch"], last["data/dropped"]) == (0.2, 0.5, 2.5, 1)
    json.dumps(last)


def test_a_signal_saves_the_state_after_the_last_finished_step():
    class Interrupted(Trainer):
        def update(self, batch):
            if self.steps == 3:
                raise KeyboardInterrupt
            return super().update(batch)

    parts, saves = parts_of(), Saves()
    parts = SupervisedParts(Interrupted(), parts.batches, parts.stream, parts.held_out)
    with pytest.raises(KeyboardInterrupt):
        fit_supervised(
            parts, tracker=RecordingTracker(), checkpoints=saves, start=START, config=config_of(), num_dropped=0
        )
    assert [state.step for state in saves.now] == [3]
