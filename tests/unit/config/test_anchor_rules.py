"""Settings of `anchor` that do not fit together, or not with others."""

import pytest

from tests.refused_settings import assert_refused, load_training

CONFLICT, UNSOLVED = "anchor.allocation=conflict", "anchor.allocation=unsolved"
RAMP = "{key: rollout.samples_per_prompt, first: %s, last: 8, start: 0, steps: 5, shape: linear, slope: null}"


@pytest.mark.parametrize(
    ("overrides", "start"),
    [
        (["anchor=mono", "rollout.samples_per_prompt=1", CONFLICT],
         "anchor.allocation: rollout.samples_per_prompt=1 has no second half; got 'conflict'; give even, or 2 or more"),
        (["anchor=none", CONFLICT],
         "anchor.allocation: anchor.kind=none has no anchors to look at; got 'conflict'; give unsolved or even, or"),
        (["anchor=none", UNSOLVED, "reward.by_prompt=true", "reward.function=recipe/vlm_r1/functions.py:score"],
         "anchor.allocation: reward.by_prompt=true scores all responses to a prompt at once, so that none"),
        (["anchor=mono", CONFLICT, f"ramps=[{RAMP % 1}]"],
         "ramps: rollout.samples_per_prompt: not valid (anchor.allocation: rollout.samples_per_prompt=1 has no second"),
        (["anchor.allocation=hard"], "anchor.allocation: "),
    ],
)  # fmt: skip
def test_a_second_half_that_cannot_be_shared_out_is_refused(overrides, start):
    assert_refused(overrides, start)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["anchor=mono", CONFLICT],
        ["anchor=all_but_one", UNSOLVED, "rollout.samples_per_prompt=2"],
        ["anchor=none", UNSOLVED, "algorithm=dapo"],
        ["anchor=mono", "rollout.samples_per_prompt=1"],
        ["anchor=mono", CONFLICT, f"ramps=[{RAMP % 2}]"],
    ],
)
def test_a_second_half_that_can_be_shared_out_is_allowed(overrides):
    chosen = [item.partition("=")[2] for item in overrides if item.startswith("anchor.allocation")]
    assert load_training(*overrides).anchor.allocation == (chosen or ["even"])[0]
