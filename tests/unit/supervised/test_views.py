"""Which rows of a cold start are shown by one image, and with which response."""

from __future__ import annotations

from collections import Counter

import pytest

from mars.supervised.views import chosen_view, response_of, usable_views
from tests.builders import IMAGE, make_prompt

VISIBLE, INFRARED = ("visible",), ("infrared",)


def row(response="yes", names=("visible", "infrared"), prompt_id="p", **fields):
    return make_prompt(prompt_id, [IMAGE] * len(names), names, response=response, **fields)


@pytest.mark.parametrize(
    ("response", "views"),
    [
        ("<answer>yes</answer>", (VISIBLE, INFRARED)),
        ("The infrared image shows two people.", (INFRARED,)),
        ("INFRARED: two people.", (INFRARED,)),
        ("Visible and infrared agree.", ()),
        ("It is invisible.", (VISIBLE, INFRARED)),
    ],
)
def test_a_response_is_not_used_for_a_view_without_a_source_that_it_names(response, views):
    assert usable_views(row(response)) == views


def test_numbered_sources_are_found_in_other_spellings():
    assert usable_views(row("In View 2 there is a car.", ("view_1", "view_2"))) == (("view_2",),)


FIRST, SECOND = ("view_1",), ("view_2",)


@pytest.mark.parametrize(
    ("response", "views"),
    [
        ("The first image shows a cat; the second image (Image 2) shows a dog.", ()),
        ("The second image shows a dog.", (SECOND,)),
        ("The second shows a dog.", (SECOND,)),
        ("In the 1st photo there is a cat.", (FIRST,)),
        ("First thermal image: a cat.", (FIRST,)),
        ("Image 2 shows a dog.", (SECOND,)),
        ("<image_1> shows a cat.", (FIRST,)),
        ("Picture #2: a dog.", (SECOND,)),
        ("image two has a dog", (SECOND,)),
        ("Image B has a dog.", (SECOND,)),
        ('[{"image": 1, "bbox_2d": [1, 2, 3, 4]}]', (FIRST,)),
        ("第二张图里有一只狗。", (SECOND,)),
        ("图1里有一只猫。", (FIRST,)),
        ("Both images show a car.", ()),
        ("The left image is brighter.", ()),
        ("It is darker than in the other image.", ()),
        ("The former is darker.", ()),
        ("两张图都有车。", ()),
        # These speak of no image but the one that is shown.
        ("First, I look at the image. It shows a cat.", (FIRST, SECOND)),
        ("The image shows 2 cats, 1 dog and a car of class B.", (FIRST, SECOND)),
        ("Image 12 of the album is on the wall.", (FIRST, SECOND)),
        ("An image a child drew.", (FIRST, SECOND)),
        ('[{"bbox_2d": [1, 2, 3, 4]}]', (FIRST, SECOND)),
    ],
)
def test_a_response_is_not_used_for_a_view_without_an_image_that_it_counts(response, views):
    assert usable_views(row(response, ("view_1", "view_2"))) == views


def test_images_are_counted_in_the_order_of_the_prompt():
    assert usable_views(row("The second image is darker.")) == (INFRARED,)
    assert usable_views(row("The third image is darker.")) == (VISIBLE, INFRARED)


def test_mono_responses_say_which_views_there_are_and_what_they_answer():
    prompt = row("Visible and infrared agree.", mono_responses={"infrared": "It is warm."})
    assert usable_views(prompt) == (INFRARED,)
    assert response_of(prompt, INFRARED) == "It is warm."
    assert response_of(prompt, None) == "Visible and infrared agree."
    assert response_of(row("yes"), VISIBLE) == "yes"
    with pytest.raises(ValueError, match=r"rows\.jsonl:p: the row has no response"):
        response_of(row(None), None)


def test_a_row_with_one_source_is_shown_as_it_is():
    assert usable_views(row("yes", ("visible",))) == ()
    assert chosen_view(row("yes", ("visible",)), 1.0, seed=0, epoch=0) is None


def test_the_ratio_is_the_share_of_rows_and_its_views_are_shown_equally_often():
    rows = [row(prompt_id=f"p{i}") for i in range(4000)]
    counts = Counter(chosen_view(prompt, 0.3, seed=1, epoch=0) for prompt in rows)
    assert counts[VISIBLE] + counts[INFRARED] == pytest.approx(1200, abs=4 * (4000 * 0.3 * 0.7) ** 0.5)
    assert counts[VISIBLE] == pytest.approx(600, abs=4 * (4000 * 0.15 * 0.85) ** 0.5)
    assert {chosen_view(prompt, 0.0, seed=1, epoch=0) for prompt in rows} == {None}
    assert None not in {chosen_view(prompt, 1.0, seed=1, epoch=0) for prompt in rows}


def test_the_choice_depends_on_seed_row_and_epoch_alone():
    rows = [row(prompt_id=f"p{i}") for i in range(64)]

    def choices(seed, epoch):
        return [chosen_view(prompt, 0.5, seed, epoch) for prompt in rows]

    assert choices(0, 0) == choices(0, 0)
    assert choices(0, 0) != choices(0, 1)
    assert choices(0, 0) != choices(1, 0)
