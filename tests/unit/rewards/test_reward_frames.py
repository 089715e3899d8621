"""Box frames and rewards together: what an answer in the model's frame scores, scaled and unscaled."""

from __future__ import annotations

import json
import random
from statistics import fmean

import pytest

from mars.data.prompts.boxes import BoxFrames
from mars.data.prompts.budget import ImageBudget, model_image_size
from mars.rewards.functions import load_reward
from mars.types import ImageRef, Message, Prompt, RewardInput, Source
from tests.examples import some

SIZE = (1280, 1024)
PATCH = 28 * 28  # pixels of an image token of Qwen2.5-VL


def budget(image_tokens: int) -> ImageBudget:
    return ImageBudget(4 * PATCH, image_tokens * PATCH, 14, 2)


def perfect(truth: list, frame: tuple[int, int], truth_frame: tuple[int, int]) -> str:
    """The true boxes, written in the frame of the model."""
    scale = [frame[0] / truth_frame[0], frame[1] / truth_frame[1]] * 2
    boxes = [{"bbox_2d": [side * by for side, by in zip(box, scale, strict=True)], "label": "person"} for box in truth]
    return f"<think>t</think><answer>```json\n{json.dumps(boxes)}\n```</answer>"


def standing_people(seed: int) -> list[list[list[int]]]:
    """The true boxes of 60 images of SIZE: one to four persons each, upright, 70 to 150 pixels wide, anywhere."""
    rng = random.Random(seed)

    def person() -> list[int]:
        width = rng.randint(70, 150)
        height = round(width * rng.uniform(1.4, 3.2))
        left, top = rng.randint(0, SIZE[0] - width), rng.randint(0, SIZE[1] - height)
        return [left, top, left + width, top + height]

    return [[person() for _ in range(rng.randint(1, 4))] for _ in range(60)]


def mean_accuracy(scorer: str, truths: list, frame: tuple[int, int], response_size: tuple[int, int]) -> float:
    """Of perfect answers written in `frame`, read as if they were in `response_size`."""
    score = load_reward("grounding", scorer)
    items = [
        RewardInput("people", None, perfect(truth, frame, SIZE), json.dumps(truth), SIZE, response_size, {})
        for truth in truths
    ]
    return fmean(score(item).accuracy for item in items)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("scorer", ["strict", "compat"])
def test_perfect_answers_must_be_scaled(scorer: str, seed: int) -> None:
    """Unscaled they lose little where the model sees the image nearly as it is, and nearly all where it is reduced."""
    truths = standing_people(seed)
    unscaled = {}
    for image_tokens, frame in ((16384, (1288, 1036)), (1280, (1120, 896)), (768, (840, 672))):
        assert model_image_size(SIZE, budget(image_tokens)) == frame
        assert mean_accuracy(scorer, truths, frame, response_size=frame) == pytest.approx(1.0, abs=1e-12)
        unscaled[image_tokens] = mean_accuracy(scorer, truths, frame, response_size=SIZE)
    assert 0.8 < unscaled[16384] < 0.95
    assert 0.08 < unscaled[1280] < 0.25
    assert unscaled[768] < 0.05


@pytest.mark.parametrize("box_space", ["resized_pixels", "norm_1000"])
@pytest.mark.parametrize("truth_space", ["original_pixels", "norm_1000"])
@pytest.mark.parametrize("sizes", [[(1280, 1024)], [(1600, 900), (640, 480)], [(640, 512), (1280, 1024)]])
@pytest.mark.parametrize("image_tokens", some([16384, 1280, 768, 64], 2))
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
