"""Box frames and rewards together, on real boxes: what an answer in the model's frame scores, scaled and unscaled."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest

from mars.data.boxes import BoxFrames
from mars.data.images import ImageBudget, model_image_size
from mars.rewards.functions import load_reward
from mars.types import ImageRef, Message, Prompt, RewardInput, Source

LLVIP = json.loads((Path(__file__).parents[2] / "data" / "llvip_boxes.json").read_text())
SIZE = tuple(LLVIP["size"])
PATCH = 28 * 28  # pixels of an image token of Qwen2.5-VL


def budget(image_tokens: int) -> ImageBudget:
    return ImageBudget(4 * PATCH, image_tokens * PATCH, 14, 2)


def perfect(truth: list, frame: tuple[int, int], truth_frame: tuple[int, int]) -> str:
    """The true boxes, written in the frame of the model."""
    scale = [frame[0] / truth_frame[0], frame[1] / truth_frame[1]] * 2
    boxes = [{"bbox_2d": [side * by for side, by in zip(box, scale, strict=True)], "label": "person"} for box in truth]
    return f"<think>t</think><answer>```json\n{json.dumps(boxes)}\n```</answer>"


def mean_accuracy(scorer: str, frame: tuple[int, int], truth_size, response_size) -> float:
    score = load_reward("grounding", scorer)
    items = [
        RewardInput("llvip", None, perfect(t, frame, SIZE), json.dumps(t), truth_size, response_size, {})
        for t in LLVIP["truths"]
    ]
    return fmean(score(of).accuracy for of in items)


@pytest.mark.parametrize(
    # The means over all 3,463 images of the set are 0.865, 0.137 and 0.011; the first 60 agree within sampling error.
    ("image_tokens", "frame", "unscaled", "whole_set"),
    [
        (16384, (1288, 1036), 0.8648, 0.865),
        (1280, (1120, 896), 0.1429, 0.137),
        (768, (840, 672), 0.0132, 0.011),
    ],
)
@pytest.mark.parametrize("scorer", ["strict", "compat"])
def test_perfect_answers_must_be_scaled(scorer, image_tokens, frame, unscaled, whole_set) -> None:
    assert model_image_size(SIZE, budget(image_tokens)) == frame
    assert mean_accuracy(scorer, frame, SIZE, frame) == pytest.approx(1.0, abs=1e-12)
    assert mean_accuracy(scorer, frame, SIZE, SIZE) == pytest.approx(unscaled, abs=5e-5)
    assert unscaled == pytest.approx(whole_set, abs=0.01)


@pytest.mark.parametrize("box_space", ["resized_pixels", "norm_1000"])
@pytest.mark.parametrize("truth_space", ["original_pixels", "norm_1000"])
@pytest.mark.parametrize("sizes", [[(1280, 1024)], [(1600, 900), (640, 480)], [(640, 512), (1280, 1024)]])
@pytest.mark.parametrize("image_tokens", [16384, 1280, 768, 64])
def test_a_perfect_answer_scores_full_marks_in_every_frame(sizes, box_space, truth_space, image_tokens) -> None:
    sources = tuple(Source(f"view_{k}", ImageRef(f"{k}.jpg", size)) for k, size in enumerate(sizes))
    message = Message("user", "<image>" * len(sources))
    prompt = Prompt("p", "rows:1", "test", (message,), sources, "", {"box_space": truth_space})
    frames = BoxFrames(box_space, budget(image_tokens))
    for view in (None, (sources[-1].name,)):
        truth_size, response_size = frames(prompt, view)
        truth = [[0.1 * truth_size[0], 0, 0.4 * truth_size[0], truth_size[1]], [1, 2, 3.5, 4.25]]
        of = RewardInput(
            "test", view, perfect(truth, response_size, truth_size), json.dumps(truth), truth_size, response_size, {}
        )
        assert load_reward("grounding", "strict")(of).score == pytest.approx(1.75, abs=1e-9)
        assert load_reward("grounding", "compat")(of).score == pytest.approx(0.75 + 1 + 0.3 * 0.6931471805599453)
