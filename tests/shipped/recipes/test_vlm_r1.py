"""recipe/vlm_r1: hand-computed scores of detections and references."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.errors import DataError
from mars.rewards.labelled_boxes import read_labelled
from tests.shipped.recipes.recipe_files import answer, item, module_of, reward_of

A, B = [0, 0, 10, 10], [20, 0, 30, 10]


def fenced(boxes, label="car"):
    return answer("```json\n" + json.dumps([{"bbox_2d": box, "label": label} for box in boxes]) + "\n```")


def scored(response, truth, name="detection"):
    return reward_of("vlm_r1", name)(item(response, json.dumps(truth)))


@pytest.mark.parametrize(
    ("boxes", "truth", "od_length"),
    [
        ([A, B], [A, B], 1.0),
        ([A], [A, B], 51 / 101),  # precision 1 up to recall 0.5, which is 51 of the 101 recalls
        ([A, B, A, B], [A, B], 0.5),  # precision 1, and twice too many boxes
        ([[0, 0, 10, 8]], [A], 0.7),  # IoU 0.8 is enough for 0.5, 0.55, ..., 0.8: seven of ten thresholds
        ([], [], 1.0),
        ([A], [], 0.0),
        ([], [A], 0.0),
    ],
)
def test_od_length(boxes, truth, od_length):
    result = scored(fenced(boxes), truth)
    assert result.parts["od_length"] == pytest.approx(od_length)
    assert result.accuracy == result.parts["od_length"]
    assert result.score == pytest.approx(od_length + 1)


def test_precision_is_the_mean_over_the_true_labels():
    truth = [{"bbox_2d": A, "label": "car"}, {"bbox_2d": B, "label": "Dog"}]
    assert scored(fenced([A, B], "Car "), truth).parts["map"] == pytest.approx(0.5)
    assert scored(fenced([A, B], "dog"), [A, B]).parts["map"] == 1, "a truth without labels compares none"


def test_a_malformed_box_counts_as_predicted():
    assert scored(fenced([A, [3, 3, 3, 3]]), [A]).parts["length_factor"] == 0.5


@pytest.mark.parametrize(
    ("response", "form"),
    [
        (fenced([A]), 1.0),
        (answer(json.dumps([A])), 0.0),
        ("<answer>```json\n[]\n```</answer>", 0.0),
        (fenced([A]) + " indeed", 0.0),
    ],
)
def test_the_form_of_a_detection(response, form):
    assert scored(response, [A]).parts["format"] == form


def test_a_reference_is_the_iou_of_the_first_box():
    result = scored(answer(json.dumps([[0, 0, 10, 5], A])), [A], "reference")
    assert (result.score, result.accuracy) == (1.5, 0.5)
    assert scored("a box", [A], "reference").score == 0
    other = item(answer("[[0, 0, 5, 5]]"), json.dumps([A]), truth_size=(20, 20), response_size=(10, 10))
    assert reward_of("vlm_r1", "reference")(other).accuracy == 1, "boxes are scaled to the truth's frame"


@pytest.mark.parametrize("truth", [[], [A, A], "x"])
def test_a_reference_has_one_true_box(truth):
    for text in (answer(json.dumps([A])), ""):
        with pytest.raises(DataError, match="truth"):
            scored(text, truth, "reference")


corner = st.integers(0, 20)
box = st.tuples(corner, corner, st.integers(1, 9), st.integers(1, 9)).map(
    lambda sides: [sides[0], sides[1], sides[0] + sides[2], sides[1] + sides[3]]
)


@given(st.lists(box, max_size=5), st.lists(box, max_size=5))
def test_a_score_is_bounded_and_right_boxes_get_all(boxes, truth):
    result = scored(fenced(boxes), truth)
    assert 0 <= result.parts["od_length"] <= min(1, result.parts["map"] + 1e-9)
    assert scored(fenced(truth), truth).parts["od_length"] == pytest.approx(1)
    reading = read_labelled(item(fenced(boxes), json.dumps(truth)))
    assert module_of("vlm_r1").class_precision(reading) == result.parts["map"]
