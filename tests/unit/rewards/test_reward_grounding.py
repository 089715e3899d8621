"""Grounding: IoU and matching by hand, frames, empty scenes, truths."""

from __future__ import annotations

import json
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.errors import DataError
from mars.rewards.functions import check_truth
from mars.rewards.grounding import MAX_TRUE_BOXES, matched_ious, mean_iou, score_grounding
from tests.builders import make_item
from tests.examples import examples


def boxes_text(boxes: list) -> str:
    return "<think>t</think><answer>```json\n" + json.dumps([{"bbox_2d": box} for box in boxes]) + "\n```</answer>"


def mean_of(predicted: list, truth: list) -> float:
    return mean_iou(matched_ious(predicted, truth), len(truth))


SQUARE = (0.0, 0.0, 10.0, 10.0)


@pytest.mark.parametrize(
    ("box", "iou"),
    [
        ((0, 0, 10, 10), 1.0),
        ((0, 0, 10, 5), 0.5),  # 50 / 100
        ((5, 0, 15, 10), 1 / 3),  # 50 / (100 + 100 - 50)
        ((5, 5, 15, 15), 1 / 7),  # 25 / 175
        ((2, 2, 4, 4), 0.04),  # 4 / 100
        ((-10, -10, 20, 20), 1 / 9),  # 100 / 900
        ((10, 0, 20, 10), 0.0),  # touching
        ((30, 30, 40, 40), 0.0),
        ((20, 0, 30, 5), 0.0),  # overlapping in y only
    ],
)
def test_iou_by_hand(box: tuple, iou: float) -> None:
    assert mean_of([box], [SQUARE]) == pytest.approx(iou, abs=1e-12)
    assert mean_of([SQUARE], [box]) == pytest.approx(iou, abs=1e-12)


def test_matching_is_one_to_one() -> None:
    # All boxes are 10 high; only their x intervals differ. Both truths like the one prediction; one of them gets it.
    assert mean_of([(3, 0, 13, 10)], [(0, 0, 10, 10), (6, 0, 16, 10)]) == pytest.approx(7 / 13 / 2)
    # Two equal predictions cannot both count for one truth.
    assert mean_of([SQUARE, SQUARE], [SQUARE, (20, 0, 30, 10)]) == 0.5


@pytest.mark.parametrize("turned", [False, True])
def test_the_best_pair_is_given_up_for_a_better_total(turned: bool) -> None:
    # IoU of x intervals     truth [0, 10)   truth [0, 8)
    #   predicted [2, 10)        0.8             0.6
    #   predicted [0, 9)         0.9             8/9
    # Greedy takes 0.9, then 0.6: total 1.5. The best total is 0.8 + 8/9.
    truth = [(0, 0, 10, 10), (0, 0, 8, 10)]
    predicted = [(2, 0, 10, 10), (0, 0, 9, 10)]
    assert mean_of(predicted[::-1] if turned else predicted, truth) == pytest.approx((0.8 + 8 / 9) / 2)


BOXES = st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(1, 9), st.integers(1, 9)).map(
    lambda box: (float(box[0]), float(box[1]), float(box[0] + box[2]), float(box[1] + box[3]))
)


def slow_iou(first: tuple, second: tuple) -> float:
    """Counts unit cells."""
    cells = [
        {(x, y) for x in range(int(box[0]), int(box[2])) for y in range(int(box[1]), int(box[3]))}
        for box in (first, second)
    ]
    return len(cells[0] & cells[1]) / len(cells[0] | cells[1])


@examples(60)
@given(st.lists(BOXES, min_size=1, max_size=4), st.lists(BOXES, min_size=1, max_size=3))
def test_mean_iou_is_the_best_of_all_matchings(predicted: list, truth: list) -> None:
    slots = [*predicted, *[None] * len(truth)]  # None: this truth stays alone
    best = max(
        sum(slow_iou(box, true) for box, true in zip(chosen, truth, strict=True) if box is not None)
        for chosen in permutations(slots, len(truth))
    )
    assert mean_of(predicted, truth) == pytest.approx(best / len(truth), abs=1e-12)


def test_score_is_format_plus_accuracy() -> None:
    truth = "[[0, 0, 10, 10], [20, 0, 30, 10]]"
    result = score_grounding(make_item(boxes_text([[20, 0, 30, 5]]), truth))
    assert (result.score, result.accuracy) == (1.0, 0.25)
    compat = pytest.approx(0.25 * (1 + 0.3 * 0.693147180559945))  # ln 2
    assert dict(result.parts) == {"format": 0.75, "accuracy": 0.25, "compat": compat, "extra_boxes": 0.0}
    assert score_grounding(make_item(boxes_text([[20, 0, 30, 10], [0, 0, 10, 10]]), truth)).score == 1.75


def test_extra_boxes_cost_nothing_but_are_shown() -> None:
    boxes = [[0, 0, 10, 10], [50, 50, 60, 60], [1, 1, 0, 0]]
    result = score_grounding(make_item(boxes_text(boxes), "[[0, 0, 10, 10]]"))
    assert (result.accuracy, result.parts["extra_boxes"]) == (1.0, 2.0)


def test_no_more_than_100_extra_boxes_are_looked_at() -> None:
    truth = "[[0, 0, 10, 10]]"
    spray = [[0, 0, 10, 10]] * 101
    assert score_grounding(make_item(boxes_text(spray), truth)).accuracy == 1.0
    assert score_grounding(make_item(boxes_text([*spray, [0, 0, 10, 10]]), truth)).accuracy == 0.0
    many = [[x, 0, x + 1, 1] for x in range(300)]  # a true crowd is no spray
    assert score_grounding(make_item(boxes_text(many), json.dumps(many))).accuracy == 1.0


@pytest.mark.parametrize(
    ("answer", "accuracy"),
    [
        ("[]", 1.0),
        ("[[0, 0, 1, 1]]", 0.0),
        ("[[1, 1, 0, 0]]", 0.0),
        ("", 0.0),
        ("none", 0.0),
        ("{}", 0.0),
        ("null", 0.0),
    ],
)
def test_an_empty_scene_wants_an_empty_list(answer: str, accuracy: float) -> None:
    text = f"<think>t</think><answer>```json\n{answer}\n```</answer>"
    assert score_grounding(make_item(text, "[]")).accuracy == accuracy
    assert score_grounding(make_item("<think>t</think>", "[]")).accuracy == 0.0


def test_boxes_are_scaled_to_the_frame_of_the_truth() -> None:
    truth = "[[320, 256, 640, 512]]"  # in 1280 x 1024
    half = make_item(boxes_text([[160, 128, 320, 256]]), truth, (1280, 1024), (640, 512))
    assert score_grounding(half).accuracy == pytest.approx(1.0)
    thousandths = make_item(boxes_text([[250, 250, 500, 500]]), truth, (1280, 1024), (1000, 1000))
    assert score_grounding(thousandths).accuracy == pytest.approx(1.0)
    # Unscaled, the halved box [160, 320) x [128, 256) only touches the truth at a corner.
    same = make_item(boxes_text([[160, 128, 320, 256]]), truth, (1280, 1024), (1280, 1024))
    assert score_grounding(same).accuracy == 0.0


def test_one_side_scaled_by_hand() -> None:
    # x doubles, y stays: [0, 5] x [0, 10] becomes [0, 10] x [0, 10].
    item = make_item(boxes_text([[0, 0, 5, 10]]), "[[0, 0, 10, 10]]", (20, 10), (10, 10))
    assert score_grounding(item).accuracy == 1.0


@pytest.mark.parametrize(("truth_size", "response_size"), [((10, 10), None), (None, (10, 10)), ((10, 10), (0, 10))])
def test_half_known_frames_are_refused(truth_size, response_size) -> None:
    with pytest.raises(DataError, match="response_size and truth_size"):
        score_grounding(make_item(boxes_text([]), "[]", truth_size, response_size))


@pytest.mark.parametrize(
    "truth",
    [
        "[[0, 0, 10, 10]]",
        "<answer>[[0, 0, 10, 10]]</answer>",
        '<answer>```json\n[{"bbox_2d": [0, 0, 10, 10], "label": "person"}]\n```</answer>',
        '```json\n[{"bbox_2d": [0, 0, 10, 10]}]\n```',
        "[0, 0, 10, 10]",
    ],
)
def test_ways_to_write_a_truth(truth: str) -> None:
    assert check_truth("grounding", truth, {}, (10, 10)) is None
    assert score_grounding(make_item(boxes_text([[0, 0, 10, 10]]), truth)).accuracy == 1.0


@pytest.mark.parametrize(
    ("truth", "fragment"),
    [
        ("", "got ''"),
        ("person", "'person'"),
        ("7", "not a list of boxes"),
        ("[[0, 0, 10, 10], [5, 5, 5, 9]]", "box 2 of 2 is inverted or has no area"),
        ("[[10, 0, 0, 10]]", "box 1 of 1 is inverted"),
        ("[[0, 0, 10]]", "not four numbers"),
        ("[[0, 0, true, 10]]", "not four numbers"),
        ("[[0, 0, NaN, 10]]", "not finite"),
        ("[" * 5000, "nested"),
        (json.dumps([[0, 0, 1, 1]] * (MAX_TRUE_BOXES + 1)), "1001 boxes; want at most 1000"),
        ("[[0, 0, 1" + "0" * 5000 + ", 10]]", "not finite"),
    ],
)
def test_malformed_truths_are_named(truth: str, fragment: str) -> None:
    problem = check_truth("grounding", truth, {})
    assert problem is not None
    assert fragment in problem
    assert problem.startswith("truth: ")
    assert len(problem) < 250
    for response in (boxes_text([[0, 0, 10, 10]]), ""):
        with pytest.raises(DataError):
            score_grounding(make_item(response, truth))


def test_rounding_at_the_edge_of_an_image_is_no_mistake() -> None:
    for box in ([0, 0, 10.0000001, 8], [-1e-9, 0, 5, 5], [0, 0, 5, 8.01], [359.17, 0, 359.17 + 280.84, 8]):
        width = 640 if box[0] > 100 else 10
        assert check_truth("grounding", json.dumps([box]), {}, (width, 8)) is None, box


@pytest.mark.parametrize("size", [None, (640, 480), (1000, 1000)])
@pytest.mark.parametrize("boxes", [[[0.1, 0.2, 0.5, 0.75]], [[0, 0, 1, 1], [0.25, 0, 1, 1]], [[0.0, 0.0, 0.5, 1.0]]])
def test_shares_of_the_sides_are_no_pixels(boxes: list, size: tuple | None) -> None:
    problem = check_truth("grounding", json.dumps(boxes), {}, size)
    assert problem is not None
    assert "shares of the image's width and height; got [0" in problem
    assert "multiply x by the width" in problem


def test_small_boxes_of_pixels_are_taken() -> None:
    for boxes in ([[0, 0, 1, 1]], [[0.5, 0.5, 1.5, 1]], [[0.1, 0.1, 0.9, 0.9], [3, 3, 9, 9]], []):
        assert check_truth("grounding", json.dumps(boxes), {}, (10, 10)) is None


def test_a_wrong_frame_and_a_wrong_form_are_said() -> None:
    for box, size, said in (
        ([100, 100, 900, 700], (640, 480), "set extra_info.box_space to norm_1000"),
        ([100, 80, 40, 60], (640, 480), "[x, y, width, height] is written [x, y, x + width, y + height]"),
    ):
        assert said in str(check_truth("grounding", json.dumps([box]), {}, size))
    beyond = str(check_truth("grounding", "[[100, 100, 1900, 700]]", {}, (640, 480)))
    assert "outside the image" in beyond
    assert "norm_1000" not in beyond


@pytest.mark.parametrize("box", [[-1, 0, 5, 5], [0, -0.5, 5, 5], [0, 0, 11, 5], [0, 0, 5, 9], [20, 20, 30, 30]])
def test_a_truth_outside_its_image_is_named(box: list) -> None:
    problem = check_truth("grounding", json.dumps([[0, 0, 10, 8], box]), {}, (10, 8))
    assert problem is not None
    assert "box 2 of 2 is outside the image of 10 x 8" in problem
    assert check_truth("grounding", json.dumps([box]), {}) is None  # nothing to compare with
