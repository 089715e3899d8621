"""recipe/star_r1: credit and penalties by hand."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.errors import DataError
from tests.shipped.recipes.recipe_files import answer, item, module_of, reward_of

TRUTH = [["1", "color", "red"], ["2", "size", "big"]]
score = reward_of("star_r1", "score")


def scored(changes, truth=TRUTH):
    return score(item(answer(json.dumps(changes)), json.dumps(truth)))


@pytest.mark.parametrize(
    ("changes", "credit", "penalty", "accuracy"),
    [
        (TRUTH, 10.0, 0.0, 1.0),
        (TRUTH[::-1], 10.0, 0.0, 1.0),
        ([[1, "Color", " RED"]], 5.0, 0.0, 0.0),
        ([["1", "color", "blue"], ["2", "place", "left"]], 2.0, 0.0, 0.0),  # 1.5 + 0.5
        ([["3", "color", "red"]], 0.0, 0.0, 0.0),  # another object
        ([["1", "color", "blue"], *TRUTH], 10.0, -1.0, 0.0),  # the right one takes the true change
        ([TRUTH[0]] * 4, 5.0, -2.0, 0.0),
        ([], 0.0, -1.0, 0.0),
    ],
)
def test_credit_and_penalties(changes, credit, penalty, accuracy):
    result = scored(changes)
    assert result.parts == {"credit": credit, "penalty": penalty, "format": 1.0}
    assert (result.score, result.accuracy) == (credit + penalty + 1, accuracy)


@pytest.mark.parametrize(
    "text", ["", "nothing", "[[1, 2]]", "[[1, 2, [3]]]", "{}", "[" * 50, "[[1, 2, NaN]]", "[[1, 2, 1e999]]"]
)
def test_what_is_no_list_of_changes_states_none(text):
    assert score(item(f"<answer>{text}</answer>", json.dumps(TRUTH))).score == -1


@pytest.mark.parametrize(("number", "penalty"), [(4, -2), (101, -99), (102, -100), (103, -100), (4000, -100)])
def test_more_changes_never_cost_less(number, penalty):
    parts = scored([["9", "color", "red"]] * number).parts
    assert parts == {"credit": 0, "penalty": penalty, "format": 1}
    credit = scored([TRUTH[0]] * number).parts["credit"]
    assert credit == (5 if number <= 102 else 0), "too many are not read"


def test_numbers_are_compared_with_all_their_digits():
    assert score(item(answer('[[1234567, "size", 2.50]]'), '[["1234567", "size", "2.5"]]')).accuracy == 1
    assert score(item(answer('[[1234567, "size", 2.5]]'), '[[1234568, "size", 2.5]]')).accuracy == 0


@pytest.mark.parametrize("truth", ["", "red", "[]", "[[1]]", '[["1", "size", NaN]]', '[[1e999, "size", "big"]]'])
def test_a_truth_without_changes_is_an_error(truth):
    with pytest.raises(DataError, match="truth"):
        score(item("", truth))


change = st.tuples(st.sampled_from("12"), st.sampled_from(["color", "size"]), st.sampled_from("ab"))


@given(st.lists(change, min_size=1, max_size=3), st.lists(change, max_size=4))
def test_no_answer_has_more_credit_than_the_truth(truth, changes):
    module = module_of("star_r1")
    best = module.credit(truth, truth, module.PAPER)
    assert best == 5 * len(truth)
    assert 0 <= module.credit(changes, truth, module.PAPER) <= best
