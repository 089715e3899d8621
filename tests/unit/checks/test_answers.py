"""Round trip: what a prompt asks for, answered perfectly, earns full marks at any image budget."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mars.answers.record import reward_input
from mars.checks.answers import EMPTY_ANSWER, answered_perfectly, disagreement
from mars.data.prompts.boxes import BoxFrames
from mars.data.prompts.budget import ImageBudget
from mars.errors import DataError
from mars.inputs import prompt_templates
from mars.rewards.built_in import BUILT_IN
from mars.rewards.functions import RewardsBySet, load_reward
from mars.rewards.vqa import VQA
from mars.types import ImageRef, Message, Prompt, RewardResult, Source
from tests.builders import load_prompts
from tests.examples import examples, some

REAL_SIZES = [(1280, 1024), (1600, 900), (640, 480), (500, 333), (8, 1200)]
FAMILIES = {"qwen2_5_vl": (14, "resized_pixels"), "qwen3_vl": (16, "norm_1000")}


def make(size, truth, family="qwen2_5_vl", tokens=1280, function="grounding", question="Detect every person.", **extra):
    """(prompt as the model is asked, frames) of a set with two sources of one size."""
    patch, box_space = FAMILIES[family]
    frames = BoxFrames(box_space, ImageBudget(4 * (2 * patch) ** 2, tokens * (2 * patch) ** 2, patch, 2))
    sources = (Source("visible", ImageRef("v.jpg", size)), Source("infrared", ImageRef("i.jpg", size)))
    text = truth if isinstance(truth, str) else json.dumps(truth)
    prompt = Prompt("p", "rows:0", "test", (Message("user", f"<image><image>\n{question}"),), sources, text, extra)
    template = prompt_templates("auto", RewardsBySet(function, {}), box_space, family)(prompt)
    return template.apply(prompt), frames


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tokens", some([16384, 1280, 768, 64, 4], 2))
@pytest.mark.parametrize("size", REAL_SIZES)
def test_a_perfect_answer_to_a_real_size_scores_one(size, tokens, family):
    truth = [[0, 0, *size], [1, 2, 5.5, 9], [size[0] - 3, size[1] - 5, size[0] - 1, size[1]]]
    prompt, frames = make(size, truth, family, tokens)
    reward = load_reward("grounding", "strict")
    for view in (None, ("visible",), ("infrared",)):
        result = reward(answered_perfectly(prompt, view, "grounding", frames))
        assert result.score == pytest.approx(1.75, abs=1e-9)  # 0.75 for the format, 1 for the boxes
    assert reward(reward_input(prompt, None, EMPTY_ANSWER, frames)).accuracy == 0
    assert disagreement(prompt, "grounding", reward, frames) is None
    assert ("0 to 1000" in prompt.messages[0].text) == (family == "qwen3_vl")
    assert ("pixel" in prompt.messages[0].text) == (family == "qwen2_5_vl")


@examples(100)
@given(st.data())
def test_any_size_budget_and_boxes(data):
    size = data.draw(st.tuples(st.integers(28, 3000), st.integers(28, 3000)))
    corners = [(data.draw(st.integers(0, side - 2)), side) for side in size]
    (x1, x2), (y1, y2) = [(low, data.draw(st.integers(low + 1, side))) for low, side in corners]
    family, tokens = data.draw(st.sampled_from(list(FAMILIES))), data.draw(st.integers(4, 16384))
    prompt, frames = make(size, [[x1, y1, x2, y2]], family, tokens)
    assert disagreement(prompt, "grounding", load_reward("grounding", "strict"), frames) is None


@pytest.mark.parametrize("size", [(1, 200), (200, 1), (3, 90), (4, 1000)])
def test_strips_are_refused(tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "strip.png")
    row = {"problem": "<image>Where?", "answer": "[[0, 0, 1, 1]]", "images": ["strip.png"]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"a\.jsonl:0 +image_size"):
        load_prompts([str(tmp_path / "a.jsonl")], None, "error", lambda prompt: None)


@pytest.mark.parametrize(
    ("truth", "extra"),
    [
        ("three or 3", {}),
        ("Yes", {}),
        ("no or none", {}),
        ("B", {"choices": ["Law", "Travel"]}),
        ("Travel", {"choices": ["Law", "Travel"]}),
        ("A or B", {"choices": ["Law", "Travel", "Art"]}),
        ("green or blue", {"choices": ["green or blue", "red"]}),
    ],
)
def test_vqa_truths_of_all_kinds(truth, extra):
    prompt, frames = make((640, 480), truth, function="vqa", question="Which?", **extra)
    reward = load_reward("vqa", "strict")
    assert disagreement(prompt, "vqa", reward, frames) is None
    assert reward(answered_perfectly(prompt, None, "vqa", frames)).score == 1.5


def test_disagreements_are_named():
    grounding, vqa = load_reward("grounding", "strict"), load_reward("vqa", "strict")
    prompt, frames = make((640, 480), [[1, 1, 5, 5]])
    bare = replace(prompt, messages=(Message("user", "<image><image>\nWhere?"),))
    assert "does not ask for <think>" in disagreement(bare, "grounding", grounding, frames)
    for_vqa, _ = make((640, 480), [[1, 1, 5, 5]], function="vqa")
    assert "json code block" in disagreement(for_vqa, "grounding", grounding, frames)
    assert "truth:" in disagreement(replace(prompt, truth="two"), "grounding", grounding, frames)
    choice, _ = make((640, 480), "C", function="vqa", choices=["Law", "Travel"])
    assert "truth:" in disagreement(choice, "vqa", vqa, frames)
    assert disagreement(bare, "own.py:score", grounding, frames) is None

    def blind(item):
        return replace(vqa(item), accuracy=0.0)

    assert disagreement(make((640, 480), "x", function="vqa")[0], "vqa", blind, frames) == (
        "a perfect answer scores 0.000, not 1"
    )


@pytest.mark.parametrize("failing", ["a perfect", "an empty"])
def test_a_reward_that_fails_is_named(failing):
    """The results are checked when the reward is loaded; a reward may also raise."""
    prompt, frames = make((640, 480), "x", function="vqa", question="Which?")
    vqa = load_reward("vqa", "strict")

    def broken(item):
        if (item.response == EMPTY_ANSWER) == (failing == "an empty"):
            raise RuntimeError("no ruler")
        return vqa(item)

    assert (
        disagreement(prompt, "vqa", broken, frames) == f"the reward fails on {failing} answer: RuntimeError: no ruler"
    )


def test_a_perfect_answer_that_scores_nan_is_named(monkeypatch):
    monkeypatch.setitem(BUILT_IN, "vqa", replace(VQA, score=lambda item: RewardResult(1.0, float("nan"), {})))
    prompt, frames = make((640, 480), "x", function="vqa", question="Which?")
    assert disagreement(prompt, "vqa", load_reward("vqa", "strict"), frames) == (
        "the reward fails on a perfect answer: accuracy is not a finite number; got nan"
    )
