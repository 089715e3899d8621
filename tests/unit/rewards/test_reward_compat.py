"""The compat scorer of grounding: its arithmetic by hand, against a slow reference, and what it shares with strict."""

from __future__ import annotations

import doctest
import json
from itertools import permutations
from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mars.rewards.answer_forms
import mars.rewards.answer_words
import mars.rewards.box_answers
import mars.rewards.box_metrics
import mars.rewards.box_prose
import mars.rewards.grounding
import mars.rewards.parsing
import mars.rewards.text_metrics
import mars.rewards.vqa
import mars.rewards.yes_no
from mars.errors import ConfigError, DataError
from mars.rewards.built_in import BUILT_IN
from mars.rewards.functions import load_reward
from mars.rewards.grounding import compat_reward, score_grounding, score_grounding_compat
from mars.types import RewardInput
from tests.examples import examples

LN2, LN3, LN4 = 0.6931471805599453, 1.0986122886681098, 1.3862943611198906


def answer(boxes: object) -> str:
    return f"<think>t</think><answer>```json\n{json.dumps(boxes)}\n```</answer>"


def item(boxes: object, truth: object, truth_size=None, response_size=None) -> RewardInput:
    return RewardInput("test", None, answer(boxes), json.dumps(truth), truth_size, response_size, {})


def column(number: int, height: float = 10) -> list[float]:
    """A box in a column of its own; its IoU with the one of height 10 is height / 10."""
    return [20 * number, 0, 20 * number + 10, height]


def columns(*heights: float) -> list[list[float]]:
    return [column(number, height) for number, height in enumerate(heights)]


@pytest.mark.parametrize(
    ("predicted", "num_true", "compat"),
    [
        (columns(10), 1, 1.0),
        (columns(5), 1, 0.5),
        (columns(3), 1, 0.0),  # exactly 0.3 counts 0
        (columns(3.1), 1, 0.31),
        (columns(), 1, 0.0),
        (columns(10, 10), 2, 1 + 0.3 * LN2),
        (columns(10, 10, 10), 3, 1 + 0.3 * LN3),
        (columns(10), 2, 0.5 * (1 + 0.3 * LN2)),  # one is missing; under-prediction has no penalty of its own
        (columns(10, 5, 2, 10), 4, 2.5 / 4 * (1 + 0.3 * LN4)),  # the 0.2 counts 0
        (columns(10, 10), 1, 1 - 0.5),  # 0.5 * (2 - 1) / 1
        (columns(10, 10, 10), 1, 0.0),  # 0.5 * 2 / 1 takes all
        (columns(8, 10), 1, 0.8 - 0.5),
        (columns(4, 10), 1, 0.0),  # 0.4 - 0.5 is floored
        (columns(10, 10, 10), 2, 1 + 0.3 * LN2 - 0.25),  # 0.5 * (3 - 2) / 2
        (columns(*[10] * 12), 4, 1 + 0.3 * LN4 - 1),  # 0.5 * 8 / 4
        (columns(*[10] * 100), 4, 1 + 0.3 * LN4 - 1),  # never more than 1
        ([*columns(10), "no box", [1, 2, 3]], 2, 0.5 * (1 + 0.3 * LN2) - 0.25),  # malformed entries are predictions
        ([*columns(10), [9, 9, 1, 1]], 1, 1 - 0.5),
    ],
)
def test_by_hand(predicted: list, num_true: int, compat: float) -> None:
    of = item(predicted, columns(*[10] * num_true))
    result = score_grounding_compat(of)
    assert result.parts["compat"] == pytest.approx(compat, abs=1e-12)
    assert result.score == pytest.approx(0.75 + compat, abs=1e-12)
    strict = score_grounding(of)
    assert (result.accuracy, result.parts) == (strict.accuracy, strict.parts)
    assert strict.score == 0.75 + strict.accuracy


def test_boxes_are_matched_before_the_threshold() -> None:
    # IoU of x intervals   [0, 30)   [0, 100)
    #   [0, 31)             30/31     0.31
    #   [0, 9)              0.3       0.09
    # The best total pairs 30/31 with 0.09, and the 0.09 counts 0; pairing what passes 0.3 most often would be 0.31 + 0.
    truth = [[0, 0, 30, 1], [0, 0, 100, 1]]
    result = score_grounding_compat(item([[0, 0, 31, 1], [0, 0, 9, 1]], truth))
    assert result.parts["compat"] == pytest.approx(30 / 31 / 2 * (1 + 0.3 * LN2))
    assert result.accuracy == pytest.approx((30 / 31 + 0.09) / 2)


@pytest.mark.parametrize(("boxes", "score"), [([], 1.75), (columns(10), 0.75), ("none", 0.75)])
def test_an_empty_scene_is_that_of_the_strict_scorer(boxes: object, score: float) -> None:
    assert score_grounding_compat(item(boxes, [])).score == score


def test_a_spray_is_not_looked_at() -> None:
    truth = columns(*[10] * 300)
    assert score_grounding_compat(item(columns(*[10] * 400), truth)).parts["compat"] > 2
    assert score_grounding_compat(item(columns(*[10] * 401), truth)).score == 0.75


BOXES = st.tuples(*[st.integers(0, 8)] * 2, *[st.integers(1, 9)] * 2).map(lambda b: [*b[:2], b[0] + b[2], b[1] + b[3]])


def slow_iou(first: list, second: list) -> float:
    cells = [{(x, y) for x in range(b[0], b[2]) for y in range(b[1], b[3])} for b in (first, second)]
    return len(cells[0] & cells[1]) / len(cells[0] | cells[1])


def slow_rewards(predicted: list, truth: list) -> list[float]:
    """The public arithmetic for every matching of largest total IoU (there may be several)."""
    by_matching = []
    for chosen in permutations([*predicted, *[None] * len(truth)], len(truth)):
        ious = [slow_iou(box, true) for box, true in zip(chosen, truth, strict=True) if box is not None]
        reward = sum(iou for iou in ious if iou > 0.3) / len(truth)
        if len(truth) > 1:
            reward = reward * (1 + 0.3 * log(len(truth)))
        if len(predicted) > len(truth):
            reward = reward - min(0.5 * (len(predicted) - len(truth)) / len(truth), 1)
        by_matching.append((sum(ious), max(reward, 0)))
    best = max(total for total, _ in by_matching)
    return [reward for total, reward in by_matching if total > best - 1e-9]


@examples(80)
@given(st.lists(BOXES, max_size=4), st.lists(BOXES, min_size=1, max_size=3))
def test_the_slow_reference_agrees(predicted: list, truth: list) -> None:
    reward = score_grounding_compat(item(predicted, truth)).parts["compat"]
    assert any(reward == pytest.approx(slow, abs=1e-9) for slow in slow_rewards(predicted, truth))


@examples(100)
@given(st.lists(st.floats(0, 1), max_size=8), st.integers(0, 30), st.integers(1, 8))
def test_bounds(ious: list[float], extra: int, num_true: int) -> None:
    ious = ious[:num_true]
    reward = compat_reward(ious, len(ious) + extra, num_true)
    assert 0 <= reward <= 1 + 0.3 * log(num_true) + 1e-12
    assert compat_reward(ious, len(ious) + extra + 1, num_true) <= reward


def test_a_malformed_truth_or_half_known_frames_raise_as_in_strict() -> None:
    for wrong in (item([], "person"), item([], columns(10), (10, 10)), item([], columns(10), (10, 10), (0, 10))):
        with pytest.raises(DataError):
            score_grounding_compat(wrong)


def test_vqa_is_the_same_under_both_scorers() -> None:
    assert BUILT_IN["vqa"].compat is BUILT_IN["vqa"].score


def test_a_function_of_ones_own_has_one_scorer(tmp_path) -> None:
    (tmp_path / "mine.py").write_text("def f(item): return 1.0")
    with pytest.raises(ConfigError, match=r"reward\.scorer: only grounding and vqa.* have two scorers; got compat"):
        load_reward(f"{tmp_path / 'mine.py'}:f", "compat")


def test_the_examples_in_the_docstrings() -> None:
    modules = [mars.rewards.parsing, mars.rewards.grounding, mars.rewards.vqa, mars.rewards.box_answers]
    for module in [
        *modules,
        mars.rewards.answer_words,
        mars.rewards.answer_forms,
        mars.rewards.yes_no,
        mars.rewards.box_prose,
        mars.rewards.box_metrics,
        mars.rewards.text_metrics,
    ]:
        result = doctest.testmod(module)
        assert (result.failed, result.attempted > 0) == (0, True)
