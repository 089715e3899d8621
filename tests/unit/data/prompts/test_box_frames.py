from __future__ import annotations

import pytest

from mars.data.prompts.boxes import BoxFrames
from mars.data.prompts.budget import ImageBudget
from mars.types import ImageRef
from tests.builders import make_prompt

BUDGET = ImageBudget(4 * 28 * 28, 1280 * 28 * 28, 14, 2)
PIXELS = BoxFrames("resized_pixels", BUDGET)
THOUSANDTHS = BoxFrames("norm_1000", BUDGET)
LARGE, SMALL = ImageRef("visible.jpg", (1280, 1024)), ImageRef("infrared.png", (640, 512))


@pytest.fixture
def prompt():
    def make(*images, **fields):
        return make_prompt("p", images, ["visible", "infrared", "depth"][: len(images)], **fields)

    return make


def test_truth_is_in_stored_pixels_and_the_answer_in_pixels_after_smart_resize(prompt):
    assert PIXELS(prompt(LARGE, LARGE), None) == ((1280, 1024), (1120, 896))  # 1280 image tokens at most
    assert PIXELS(prompt(LARGE, LARGE), ("infrared",)) == ((1280, 1024), (1120, 896))


def test_a_mono_view_answers_in_the_frame_of_the_image_it_shows(prompt):
    both = prompt(LARGE, SMALL)
    assert PIXELS(both, None) == ((1280, 1024), (1120, 896))
    assert PIXELS(both, ("visible",)) == ((1280, 1024), (1120, 896))
    assert PIXELS(both, ("infrared",)) == ((1280, 1024), (644, 504))  # 640x512 to the nearest multiples of 28
    swapped = prompt(SMALL, LARGE)
    assert PIXELS(swapped, None) == ((640, 512), (644, 504))
    assert PIXELS(swapped, ("infrared",)) == ((640, 512), (1120, 896))


def test_all_but_one_views_answer_in_the_frame_of_their_first_image(prompt):
    three = prompt(LARGE, SMALL, LARGE)
    assert PIXELS(three, ("infrared", "depth")) == ((1280, 1024), (644, 504))
    assert PIXELS(three, ("visible", "depth")) == ((1280, 1024), (1120, 896))


@pytest.mark.parametrize("view", [None, ("infrared",)])
def test_thousandths_on_either_side(prompt, view):
    both = prompt(LARGE, SMALL)
    assert THOUSANDTHS(both, view) == ((1280, 1024), (1000, 1000))
    normed = prompt(LARGE, SMALL, extra_info={"box_space": "norm_1000"})
    assert THOUSANDTHS(normed, view) == ((1000, 1000), (1000, 1000))
    assert PIXELS(normed, view)[0] == (1000, 1000)
    assert PIXELS(normed, None)[1] == (1120, 896)


def test_a_prompt_without_images_has_no_frames(prompt):
    assert PIXELS(prompt(), None) == (None, None)
    assert THOUSANDTHS(prompt(extra_info={"box_space": "norm_1000"}), None) == (None, None)
