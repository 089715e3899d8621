"""recipe/vision_r1_ptst: the hard reward, and three chained stages."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.shipped.recipes.recipe_files import ROOT, answer, compose, item, reward_of

score = reward_of("vision_r1_ptst", "score")


@pytest.mark.parametrize(
    ("response", "total", "accuracy", "form"),
    [
        (answer("4"), 1, 1, 1),
        (answer("5"), 0, 0, 1),
        (answer("4", think=" "), 0, 1, 0),
        (answer("4") + " done", 0, 0, 0),
        ("<answer>4</answer>", 0, 0, 0),
        ("4", 0, 0, 0),
    ],
)
def test_form_and_answer_must_both_be_right(response, total, accuracy, form):
    result = score(item(response, "4"))
    assert (result.score, result.accuracy, result.parts["format"]) == (total, accuracy, form)


@given(st.text(max_size=20), st.text(max_size=20))
def test_the_score_is_the_product_of_its_parts(think, text):
    result = score(item(answer(text, think), "4"))
    assert result.score == result.parts["format"] * result.parts["accuracy"]


def test_the_stages_are_chained():
    folder = ROOT / "recipe" / "vision_r1_ptst"
    stages = [compose(folder, f"vision_r1_ptst_stage{k}_qwen2_5_vl_7b") for k in (1, 2, 3)]
    assert [(s.rollout.max_response_tokens, s.rollout.samples_per_prompt) for s in stages] == [
        (4096, 16), (8192, 8), (16384, 4),
    ]  # fmt: skip
    for before, stage in pairwise(stages):
        assert stage.model.path == f"{before.run.dir}/policy"
    for stage in stages:
        assert stage.rollout.max_response_tokens + stage.data.max_prompt_tokens <= stage.rollout.max_model_len
