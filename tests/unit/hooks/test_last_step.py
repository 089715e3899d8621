"""After the last step nothing is asked of a hook and nothing is read ahead."""

from __future__ import annotations

import random

import pytest

from mars.checkpoint.state import START
from mars.data.order.stream import PromptStream
from mars.fit import fit
from mars.hooks.step_hooks import Named
from mars.run import _train_step
from tests.fakes.requests import with_requests
from tests.fakes.step import parts
from tests.fakes.tracker import RecordingTracker
from tests.hook_builders import step_hooks
from tests.unit.hooks.test_prompt_sampler import PROMPTS
from tests.unit.test_step import make_table
from tests.unit.test_step_async import CheckpointsInMemory, settings


class Stages:
    """Asks nothing. Has one stage for each half of the run, and so none at progress 1."""

    def __init__(self):
        self.seen = []

    def before(self, prompt, facts):
        self.seen.append((facts.step, facts.progress))
        return [(), ()][int(facts.progress * 2)]

    def after(self, item, facts):
        return ()


SYNCHRONOUS = {"rollout.max_staleness": 0}


@pytest.mark.parametrize("schedule", [SYNCHRONOUS, {}])
@pytest.mark.parametrize("length", [{"run.num_steps": 2}, {"run.num_steps": None, "run.num_epochs": 1}])
def test_no_step_follows_the_last(schedule, length):
    """Eight prompts, four a step."""
    hook = Stages()
    hooks = step_hooks(requests=Named("own:Stages", hook, None), num_steps=2)
    made = with_requests(parts(make_table(PROMPTS, random.Random(1))), hooks)
    config, stream, asked = settings(2, **schedule, **length), PromptStream(PROMPTS, 4, 0, True), []
    batch = stream.batch
    stream.batch = lambda round: asked.append(round) or batch(round)
    fit(made, stream, RecordingTracker(), config, None, CheckpointsInMemory(), START, 0, _train_step(config, stream))
    assert len(made.trainer.batches) == 2
    assert sorted(set(hook.seen)) == [(1, 0.0), (2, 0.5)]
    assert sorted(set(asked)) == [0, 1]
