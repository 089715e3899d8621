"""The state between two steps, carried prompts included, comes back exactly."""

from __future__ import annotations

import json
import math
import struct
from base64 import b64decode
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.checkpoint.catalogue import Catalogue
from mars.checkpoint.manifest import Manifest
from mars.checkpoint.packed import pack, unpack
from mars.checkpoint.resume import data_fingerprint, none_added, starting_point
from mars.checkpoint.state import START, STATE_FILE, RunState, state_lines, stored_state
from mars.errors import CheckpointError, UnreadableCheckpoint
from mars.image_transform import TransformCall, transformed, transformed_image
from mars.output.digests import write_durably
from mars.quarantine import BadPrompt, Quarantine
from mars.step_parts import Sampled, SamplingState
from mars.types import Completion, SampledPrompt
from tests.builders import IMAGE, make_prompt, make_rollouts, with_extra
from tests.run_states import state_from_lines
from tests.unit.rollout.test_extra_groups import everything, sampled


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
    assert state_from_lines(state_lines(before), prompts) == before
    assert state_from_lines(state_lines(START), {}) == START


def test_whole_numbers_stay_whole_and_nan_stays_nan():
    before = RunState(1, START.sampling, {"n": 3, "x": 3.0, "bad": math.nan}, logged=True)
    metrics = state_from_lines(state_lines(before), {}).metrics
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
    content = list(state_lines(before))
    after = state_from_lines(content, {"p0": prompt})
    assert repr(after) == repr(before)  # NaN is not equal to itself
    assert list(state_lines(after)) == content


def sampled_ahead(number, odd=(-0.5, -0.25)):
    """A state with a carried prompt, of which two tokens have the log-probs `odd`, and others sampled ahead."""
    prompts = [make_prompt(f"p{i}", [IMAGE]) for i in range(number + 1)]
    rollouts = [make_rollouts(prompt, [0.5, 0.25], text="a\nb", visible=[0.7]) for prompt in prompts]
    first = rollouts[0].multi.rollouts[0]
    completion = replace(first.completion, token_ids=(1, 2**31 - 1), logprobs=odd)
    multi = replace(rollouts[0].multi, rollouts=(replace(first, completion=completion),))
    rollouts[0] = replace(rollouts[0], multi=multi)
    carried = SampledPrompt(rollouts[0], (0.1,), (1.0,), carried=True)
    kept = [SampledPrompt(each, (0.1, -0.1), (1.0, 1.0)) for each in rollouts[1:]]
    beyond = (replace(kept[-1], carried=True),)
    again = replace(carried, advantages=(0.3,))  # the next step's normalisation
    ahead = Sampled(
        tuple(rollouts[1:]), (again, *kept[:-1]), SamplingState(9, beyond, hooks="h", surplus=-3), {"x": 1.0}
    )
    sampling = SamplingState(8, (carried,), ahead=ahead, hooks="g", surplus=2)
    return RunState(1, sampling, {}, logged=True), {prompt.prompt_id: prompt for prompt in prompts}


def test_what_was_sampled_ahead_comes_back_exactly_line_by_line():
    before, prompts = sampled_ahead(3)
    lines = list(state_lines(before))
    assert [line.count(b"\n") for line in lines] == [1] * (1 + 4 + 1 + 3 + 1)
    assert state_from_lines(lines, prompts) == before


def test_groups_of_extra_requests_come_back_with_those_that_are_trained_alone():
    item = sampled(with_extra(everything(), "told", "guest", [1.0], in_pool=False))
    carried, beyond = replace(item, carried=True), replace(item, carried=True)
    ahead = Sampled((item.rollouts,), (carried,), SamplingState(9, (beyond,)), {})
    before = RunState(1, SamplingState(8, (carried,), ahead=ahead), {}, logged=True)
    assert item.own_groups
    assert state_from_lines(state_lines(before), {"x": item.rollouts.prompt}) == before


def test_changed_images_come_back_with_their_transforms():
    """Else the responses sampled for them would be trained with the images as they are."""
    item = everything()
    twice = transformed(transformed((IMAGE, IMAGE), "noisy", 0.1 + 0.2, 7, 1, "x"), "masked", 1.0, 8)
    own, *others, last = item.extras
    images = (IMAGE, twice[0], transformed_image(IMAGE, TransformCall("masked", 2**64 - 1, 0.5)))
    own, last = (
        replace(group, request=replace(group.request, images=shown)) for group, shown in ((own, twice), (last, images))
    )
    carried = replace(sampled(replace(item, extras=(own, *others, last))), carried=True)
    ahead = Sampled((carried.rollouts,), (replace(carried, carried=False),), SamplingState(9, ()), {})
    before = RunState(1, SamplingState(8, (carried,), ahead=ahead), {}, logged=True)
    lines = list(state_lines(before))
    assert state_from_lines(lines, {"x": item.prompt}) == before
    shorter = json.loads(lines[1])
    shorter["transforms"][-1].pop()
    with pytest.raises(UnreadableCheckpoint, match="not the state of a run"):
        stored_state([lines[0], json.dumps(shorter).encode(), *lines[2:]])


def test_a_line_without_changed_images_says_nothing_of_transforms():
    assert not any(b"transforms" in line for line in state_lines(state()))


def test_no_line_grows_with_the_number_of_prompts():
    """While a line is made, the process does nothing else."""
    longest = [max(map(len, state_lines(sampled_ahead(number)[0]))) for number in (5, 9)]
    assert longest[0] == longest[1]


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines[:-1],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [*lines[:2], *lines[3:]],
        lambda lines: [lines[0], *lines],
    ],
)
def test_lines_that_are_missing_or_too_many_are_refused(change):
    with pytest.raises(UnreadableCheckpoint, match=r"state.json: not the state of a run"):
        stored_state(change(list(state_lines(sampled_ahead(3)[0]))))


any_float = st.floats(width=64) | st.floats(width=32) | st.just(float.fromhex("0x1p-1074"))
signalling_nan = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000001))[0]


@given(st.lists(st.lists(st.tuples(st.integers(-(2**31), 2**31 - 1), any_float | st.just(signalling_nan)), max_size=5)))
def test_tokens_and_log_probs_come_back_to_the_bit(responses):
    tokens = [tuple(token for token, _ in each) for each in responses]
    logprobs = [tuple(number for _, number in each) for each in responses]
    pairs = zip(tokens, logprobs, strict=True)
    found = unpack(pack([Completion(token_ids, numbers, "stop") for token_ids, numbers in pairs]))
    assert [token_ids for token_ids, _ in found] == tokens
    assert [struct.pack(f"<{len(n)}d", *n) for _, n in found] == [struct.pack(f"<{len(n)}d", *n) for n in logprobs]


def test_log_probs_of_engines_take_32_bits_by_hand():
    """-0.5 is 00 00 00 bf as a float32; 0.1 is none."""
    packed = pack(
        [Completion((1, 2), (-0.5, -0.5), "stop"), Completion((), (), "stop"), Completion((3,), (0.25,), "stop")]
    )
    assert (packed.lengths, packed.logprob_bits) == ((2, 0, 1), 32)
    assert b64decode(packed.logprobs).hex() == "000000bf" * 2 + "0000803e"
    assert b64decode(packed.token_ids).hex() == "010000000200000003000000"
    assert pack([Completion((1,), (0.1,), "stop")]).logprob_bits == 64


@pytest.mark.parametrize("change", [{"lengths": (2,)}, {"token_ids": "AAAA"}, {"logprobs": "AA=A"}, {"token_ids": "?"}])
def test_packed_tokens_that_do_not_fit_together_are_an_error(change):
    packed = pack([Completion((1,), (-0.5,), "stop")])
    with pytest.raises(ValueError):  # noqa: PT011 of whichever library finds it first
        unpack(replace(packed, **change))


def saved_run(folder, contents):
    """A catalogue of checkpoints whose manifests fit their files."""
    catalogue = Catalogue(folder)
    for step, content in contents.items():
        files = {STATE_FILE: write_durably(catalogue.draft(step) / STATE_FILE, [content])}
        catalogue.commit(Manifest(step, files, {}, "rows", {}))
    return catalogue


def test_a_state_that_cannot_be_read_is_left_out_for_an_older_one(tmp_path, caplog):
    good = b"".join(state_lines(replace(START, step=1)))
    catalogue = saved_run(tmp_path, {1: good, 2: good.replace(b"0", b"null"), 3: b"{}"})
    assert starting_point(catalogue, True, {}, "rows", none_added).state.step == 1
    assert "step_000003/state.json: not the state of a run" in caplog.text
    assert catalogue.prune(1, None) == [], "another version of mars may read it"
    with pytest.raises(CheckpointError, match="other rows"):
        starting_point(catalogue, True, {}, "other rows", none_added)


def test_without_a_state_that_can_be_read_no_run_starts(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint can be loaded: .*state.json: not the state of a run"):
        starting_point(saved_run(tmp_path, {3: b"{}"}), True, {}, "rows", none_added)


def test_what_a_sampler_had_read_is_read_again_before_prompts_are_looked_up(tmp_path):
    before = state()
    before = replace(before, sampling=replace(before.sampling, hooks="snapshot"))
    catalogue = saved_run(tmp_path, {1: b"".join(state_lines(before))})
    prompts, told = {}, []

    def read_added(snapshots):
        told.extend(snapshots)
        prompts.update({item.rollouts.prompt.prompt_id: item.rollouts.prompt for item in before.sampling.carried})

    assert starting_point(catalogue, True, prompts, "rows", read_added).state == before
    assert told == ["snapshot"]
    with pytest.raises(CheckpointError, match="not in the training set"):
        starting_point(catalogue, True, {}, "rows", none_added)


def test_carried_prompts_that_the_data_no_longer_has_are_refused():
    with pytest.raises(CheckpointError, match="1 of 1 sampled prompts are not in the training set"):
        state_from_lines(state_lines(state()), {})


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"step": "x"}', b"\xff"])
def test_what_is_no_state_is_refused(content):
    with pytest.raises(CheckpointError, match=r"state.json: not the state of a run"):
        state_from_lines([content], {})


def test_the_fingerprint_sees_order_and_number():
    assert len({data_fingerprint(ids) for ids in (["a", "b"], ["b", "a"], ["a"], ["ab"])}) == 4
