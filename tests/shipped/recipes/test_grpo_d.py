"""recipe/grpo_d: the KL coefficient of each step, and that the trainer gets it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import make_prompt
from tests.fakes.step import IMAGE, one_step, parts
from tests.hook_builders import hooks_of_config
from tests.shipped.recipes.recipe_files import ROOT, compose, experiments
from tests.unit.test_step import make_table

FOLDER = ROOT / "recipe" / "grpo_d"
CONFIGS = {name: compose(FOLDER, name) for tiny in (True, False) for name in experiments(FOLDER, tiny=tiny)}
(PAPER,) = CONFIGS["grpo_d_qwen2_vl_2b"].ramps
(TINY,) = CONFIGS["grpo_d_tiny"].ramps


def test_the_coefficient_by_hand():
    assert PAPER.at(1) == 0.001
    assert PAPER.at(251) == pytest.approx(0.001 + 0.5 * 0.039)
    assert PAPER.at(501) == PAPER.at(10_000) == 0.04
    assert [TINY.at(step) for step in (1, 60)] == [0.001, 0.04]
    assert CONFIGS["grpo_d_tiny"].run.num_steps == 60


@pytest.mark.parametrize("ramp", [PAPER, TINY], ids=["paper", "tiny"])
@given(steps=st.lists(st.integers(1, 2000), min_size=2, max_size=2).map(sorted))
def test_the_coefficient_only_grows(ramp, steps):
    first, second = steps
    assert 0 < ramp.at(first) <= ramp.at(second) <= 0.04


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("anchor", ["none", "mono"])
def test_the_loss_has_a_reference_and_the_coefficient_of_the_step(name, anchor):
    config = compose(FOLDER, name, f"anchor={anchor}")
    assert (config.algorithm.loads_reference, config.algorithm.kl_placement) == (True, "loss")
    hooks = hooks_of_config(config, 1000)
    prompts = [make_prompt(f"p{i}", [IMAGE] * 2, extra_info={"name": f"p{i}"}) for i in range(2)]
    made = replace(parts(make_table(prompts, random.Random(0), anchor=anchor), anchor=anchor), hooks=hooks)
    for step in (1, 2):
        result = one_step(made, prompts, step)
        (batch,) = made.trainer.batches[step - 1 :]
        growth = 0.039 / (500 if name == "grpo_d_qwen2_vl_2b" else 59)
        assert batch.settings["algorithm.kl_coefficient"] == pytest.approx(0.001 + (step - 1) * growth)
        assert result.metrics["ramp/algorithm.kl_coefficient"] == batch.settings["algorithm.kl_coefficient"]
