"""The state between two steps, carried prompts included, comes back exactly."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mars.checkpoint.catalogue import Catalogue
from mars.checkpoint.manifest import Manifest
from mars.checkpoint.resume import data_fingerprint, starting_point
from mars.checkpoint.state import START, STATE_FILE, RunState, state_from_json, state_to_json
from mars.errors import CheckpointError
from mars.output.digests import write_durably
from mars.quarantine import BadPrompt, Quarantine
from mars.sampling import Sampled, SamplingState
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


def test_numbers_that_are_not_finite_come_back_wherever_they_are():
    """A log-prob of a broken response, a part of a reward: of carried prompts and of those sampled ahead."""
    odd = (math.nan, math.inf, -math.inf, -0.0)
    prompt = make_prompt("p0", [IMAGE])
    rollouts = make_rollouts(prompt, [0.5, 0.25], visible=[0.7])
    first = rollouts.multi.rollouts[0]
    completion = replace(first.completion, token_ids=(1, 2, 3, 4), logprobs=odd)
    reward = replace(first.reward, parts=dict(zip("abcd", odd, strict=True)))
    rollout = replace(first, completion=completion, reward=reward)
    groups = (replace(rollouts.multi, rollouts=(rollout,)), replace(rollouts.multi, rollouts=(rollout, rollout)))
    rollouts = replace(rollouts, multi=groups[0], anchors=groups[1:])
    carried = SampledPrompt(rollouts, odd, odd, carried=True)
    kept = replace(carried, carried=False)
    ahead = Sampled((rollouts,), (kept,), SamplingState(9, ()), dict(zip("abcd", odd, strict=True)))
    before = RunState(1, SamplingState(8, (carried,), ahead=ahead), {"x": math.nan}, logged=True)
    content = state_to_json(before)
    after = state_from_json(content, {"p0": prompt})
    assert repr(after) == repr(before)  # NaN is not equal to itself
    assert state_to_json(after) == content


def saved_run(folder, contents):
    """A catalogue of checkpoints whose manifests fit their files."""
    catalogue = Catalogue(folder)
    for step, content in contents.items():
        files = {STATE_FILE: write_durably(catalogue.draft(step) / STATE_FILE, content)}
        catalogue.commit(Manifest(step, files, {}, "rows", {}))
    return catalogue


def test_a_state_that_cannot_be_read_is_left_out_for_an_older_one(tmp_path, caplog):
    good = state_to_json(replace(START, step=1))
    catalogue = saved_run(tmp_path, {1: good, 2: good.replace(b"0", b"null"), 3: b"{}"})
    assert starting_point(catalogue, True, {}, "rows").state.step == 1
    assert "step_000003/state.json: not the state of a run" in caplog.text
    assert catalogue.prune(1, None) == [], "another version of mars may read it"
    with pytest.raises(CheckpointError, match="other rows"):
        starting_point(catalogue, True, {}, "other rows")


def test_without_a_state_that_can_be_read_no_run_starts(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint can be loaded: .*state.json: not the state of a run"):
        starting_point(saved_run(tmp_path, {3: b"{}"}), True, {}, "rows")


def test_carried_prompts_that_the_data_no_longer_has_are_refused():
    with pytest.raises(CheckpointError, match="1 of 1 sampled prompts are not in the training set"):
        state_from_json(state_to_json(state()), {})


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"step": "x"}', b"\xff"])
def test_what_is_no_state_is_refused(content):
    with pytest.raises(CheckpointError, match=r"state.json: not the state of a run"):
        state_from_json(content, {})


def test_the_fingerprint_sees_order_and_number():
    assert len({data_fingerprint(ids) for ids in (["a", "b"], ["b", "a"], ["a"], ["ab"])}) == 4
