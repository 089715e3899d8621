"""The state between two steps, carried prompts included, comes back exactly."""

from __future__ import annotations

import math

import pytest

from mars.checkpoint.resume import data_fingerprint
from mars.checkpoint.state import START, RunState, state_from_json, state_to_json
from mars.errors import CheckpointError
from mars.quarantine import BadPrompt, Quarantine
from mars.sampling import SamplingState
from mars.types import SampledPrompt
from tests.builders import IMAGE, make_prompt, make_rollouts


def state() -> RunState:
    prompt = make_prompt("p0", [IMAGE, IMAGE], ["visible", "infrared"])
    rollouts = make_rollouts(prompt, [0.1, 1 / 3, None], text="a\u2028\x00b", visible=[0.7], infrared=[1e-300])
    carried = SampledPrompt(rollouts, (0.1, -1 / 7), (1.0, 1.0), carried=True)
    quarantine = Quarantine(31, (BadPrompt("p3", 4, "a\u2028.png: gone"), BadPrompt("p9", 30, "no\x00thing")))
    return RunState(
        7, SamplingState(9, (carried,), quarantine), {"mars/rounds": 2, "actor/pg_loss": 0.1 + 0.2}, logged=False
    )


def test_it_comes_back_exactly():
    before = state()
    prompts = {item.rollouts.prompt.prompt_id: item.rollouts.prompt for item in before.sampling.carried}
    assert state_from_json(state_to_json(before), prompts) == before
    assert state_from_json(state_to_json(START), {}) == START


def test_whole_numbers_stay_whole_and_nan_stays_nan():
    before = RunState(1, START.sampling, {"n": 3, "x": 3.0, "bad": math.nan}, logged=True)
    metrics = state_from_json(state_to_json(before), {}).metrics
    assert [type(metrics[name]) for name in ("n", "x")] == [int, float]
    assert math.isnan(metrics["bad"])


def test_carried_prompts_that_the_data_no_longer_has_are_refused():
    with pytest.raises(CheckpointError, match="1 of 1 sampled prompts are not in the training set"):
        state_from_json(state_to_json(state()), {})


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"step": "x"}', b"\xff"])
def test_what_is_no_state_is_refused(content):
    with pytest.raises(CheckpointError, match=r"state.json: not the state of a run"):
        state_from_json(content, {})


def test_the_fingerprint_sees_order_and_number():
    assert len({data_fingerprint(ids) for ids in (["a", "b"], ["b", "a"], ["a"], ["ab"])}) == 4
