"""`python -m pytest`: the reward gives the scores that it should."""

from __future__ import annotations

from math import isclose

from reward import check_score, score

from mars.types import RewardInput, RewardResult


def result(response: str) -> RewardResult:
    return score(RewardInput("mine", None, response, "night", None, None, {}))


def test_a_right_answer_gets_all_points_but_those_for_its_length():
    found = result("<think>The visible image is dark.</think><answer>Night</answer>")  # 63 characters
    assert found.accuracy == 1
    assert isclose(found.score, 1 + 0.2 + 0.1 * (1 - 63 / 400))


def test_a_wrong_answer_gets_points_for_its_form_only():
    found = result("<think>It is bright.</think><answer>day</answer>")  # 48 characters
    assert found.accuracy == 0
    assert isclose(found.score, 0.2 + 0.1 * (1 - 48 / 400))


def test_text_without_tags_gets_points_for_being_short_only():
    assert isclose(result("").score, 0.1)
    assert result("night " * 100).score == 0


def test_a_row_needs_an_answer():
    assert check_score("night", {}, None) is None
    assert check_score(" ", {}, None) is not None
