"""recipe/vision_r1_human_free: matching, thresholds by step, and scenes without objects, by hand."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.rewards.box_metrics import giou_matrix
from mars.rewards.labelled_boxes import LabelledBox
from tests.shipped.recipes.recipe_files import answer, item, module_of, reward_of

A, B, C = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]


def boxes_of(*boxes, label="car"):
    return answer(json.dumps([{"bbox_2d": list(box), "label": label} for box in boxes]))


def scored(response, truth, step=1):
    return reward_of("vision_r1_human_free", "score")(item(response, json.dumps(truth), step=step))


def test_recall_and_precision_by_hand():
    # IoU = GIoU = 0.6 for the first pair, 1 for the second; two of three found.
    result = scored(boxes_of([0, 0, 10, 6], B), [A, B, C])
    assert result.parts == pytest.approx({"recall": 2 / 3, "precision": (0.6 + 1) / 2, "format": 1.0})
    assert result.score == pytest.approx(2 / 3 + 0.8 + 1)
    assert result.accuracy == pytest.approx(2 / 3)
    # All found is more than 0.75; one of three is less than 0.5.
    assert scored(boxes_of(A, B, C), [A, B, C]).score == 3
    assert scored(boxes_of(A), [A, B, C]).parts == {"recall": 0.0, "precision": 1.0, "format": 1.0}


def test_the_thresholds_rise_at_step_1500():
    response = boxes_of([0, 0, 10, 8], B)  # quality 0.8 and 1
    for step, wanted in ((1499, {"recall": 1.0, "precision": 1.0}), (1500, {"recall": 1.0, "precision": 0.9})):
        parts = scored(response, [A, B], step).parts
        assert {name: parts[name] for name in wanted} == pytest.approx(wanted)
    worse = boxes_of([0, 0, 10, 7], B)  # 0.7 is not found any more
    assert scored(worse, [A, B], 1499).parts["recall"] == 1
    assert scored(worse, [A, B], 1500).parts == pytest.approx({"recall": 0.5, "precision": 0.5, "format": 1.0})
    assert scored(worse, [A, B], 0).parts["recall"] == 1, "step 0 is before training"


def test_a_quality_exactly_at_the_threshold_counts_as_itself():
    assert scored(boxes_of([0, 0, 10, 5]), [A]).accuracy == 0.5


@pytest.mark.parametrize(
    ("response", "truth", "parts"),
    [
        (answer("There is no car."), [], (1, 1, 1)),
        (answer("[]"), [], (1, 1, 1)),
        (boxes_of(A), [], (0, 0, 0)),
        (boxes_of(*[A] * 101), [], (0, 0, 0)),  # more than are read
        (boxes_of([5, 5, 1, 1]), [], (0, 0, 0)),  # inverted
        (json.dumps([{"bbox_2d": A, "label": "car"}]), [], (0, 0, 0)),  # no answer tags
        (boxes_of(A) + boxes_of(B), [], (0, 0, 0)),  # two answers
        (answer("a car at the left"), [], (0, 0, 0)),
        ("", [], (0, 0, 0)),
        (answer("[]"), [A], (0, 0, 0)),
        (answer("There is no car."), [A], (0, 0, 0)),
        ("", [A], (0, 0, 0)),
        (answer("[[0, 0, 10, 10]]"), [A], (1, 1, 0)),  # no label
    ],
)
def test_scenes_without_objects_and_answers_without_boxes(response, truth, parts):
    result = scored(response, truth)
    assert tuple(result.parts.values()) == parts
    assert result.score == sum(parts)
    assert result.accuracy == parts[0]


box = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9), st.integers(1, 9)).map(
    lambda s: (float(s[0]), float(s[1]), float(s[0] + s[2]), float(s[1] + s[3]))
)
labelled = st.lists(st.builds(LabelledBox, box, st.sampled_from(["car", "dog"])), min_size=1, max_size=3)


def cost(one, other):
    distance = sum(abs(a - b) for a, b in zip(one.box, other.box, strict=True))
    return distance - (one.label == other.label) - giou_matrix([one.box], [other.box])[0, 0]


@given(labelled, labelled)
def test_the_matching_has_the_smallest_cost(ours, true):
    few, many = sorted((ours, true), key=len)
    totals = {
        sum(cost(one, other) for one, other in zip(few, some, strict=True)): some
        for some in itertools.permutations(many, len(few))
    }
    best = totals[min(totals)]
    quality = [giou_matrix([one.box], [other.box])[0, 0] for one, other in zip(few, best, strict=True)]
    found = module_of("vision_r1_human_free").matched_quality(ours, true)
    ties = [total for total in totals if total < min(totals) + 1e-9]
    if len(ties) == 1:
        assert sorted(found) == pytest.approx(sorted(quality))


@given(labelled, st.integers(0, 3000))
def test_a_perfect_answer_has_the_full_score_at_every_step(true, step):
    truth = [{"bbox_2d": one.box, "label": one.label} for one in true]
    assert scored(answer(json.dumps(truth)), truth, step).score == 3
