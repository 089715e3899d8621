"""recipe/rewardmap: routes on a small map, by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.errors import DataError
from tests.unit.recipes.recipe_files import answer, item, module_of, reward_of

LINES = {"Red Line": ["A", "B", "C Station", "D"], "Blue": ["X", "C", "Y"], "Green": ["Y", "Z"]}
score = reward_of("rewardmap", "score")


def leg(line, departure, arrival):
    return f"Route Name: {line}\nDeparture Stop: {departure}\nArrival Stop: {arrival}\n"


def routed(legs, start, end, transfers, difficulty="easy"):
    facts = {"kind": "planning", "difficulty": difficulty, "lines": LINES, "start": start, "end": end}
    text = answer("--\n".join(leg(*one) for one in legs))
    return score(item(text, "", {"map": facts | {"transfers": transfers}}))


DIRECT = [("Red Line", "A", "D")]
CHANGE = [("red line", "A", "C"), ("Blue", "C station", "Y")]
TWICE = [*CHANGE, ("Green", "Y", "Z")]


@pytest.mark.parametrize(
    ("legs", "ends", "transfers", "right", "detail"),
    [
        (DIRECT, ("A", "D"), 0, 1, 6),  # 2 + 4
        (CHANGE, ("A", "Y"), 1, 1, 9),  # 2 + 3 + 1 + 3
        (TWICE, ("A", "Z"), 2, 1, 10),  # 2 + 3 * 3 + 2 = 13, at most 10
        (CHANGE, ("A", "Y"), 0, 1, -3),  # 2 - 5: one leg too many, and no line has both ends
        ([("Red Line", "A", "B"), ("Blue", "C", "Y")], ("A", "Y"), 1, 0, 8),  # a wrong change
        ([("Black", "A", "Y")], ("A", "Y"), 1, 0, 2),  # no such line
        ([("Blue", "A", "Y")], ("A", "Y"), 1, 0, 5),  # the line exists, A is not on it
        (DIRECT, ("A", "Y"), 1, 0, 0),  # a wrong end
        ([], ("A", "Y"), 1, 0, 0),
    ],
)
def test_routes_by_hand(legs, ends, transfers, right, detail):
    result = routed(legs, *ends, transfers)
    assert (result.accuracy, result.parts["detail"]) == (right, detail)
    weight = 1.5 if transfers else 1.0
    assert result.score == pytest.approx(weight * (10 * right + 0.5 * detail))


@pytest.mark.parametrize(("difficulty", "weight"), [("easy", 1.0), ("middle", 1.2), ("hard", 1.5)])
def test_the_difficulty_of_a_map(difficulty, weight):
    assert routed(DIRECT, "A", "D", 0, difficulty).score == pytest.approx(weight * 13)
    assert routed(CHANGE, "A", "Y", 1, difficulty).parts["difficulty"] == pytest.approx(weight + 0.5)
    facts = {"map": {"kind": "question", "difficulty": difficulty}}
    assert score(item(answer("3"), "3", facts)).score == pytest.approx(10 * weight)
    assert score(item(answer("4"), "3", facts)).score == score(item("3", "3", facts)).score == 0


@pytest.mark.parametrize(
    "facts", [{}, {"map": {"difficulty": "odd"}}, {"map": {"kind": "planning", "difficulty": "easy"}}]
)
def test_a_row_without_facts_is_an_error(facts):
    with pytest.raises(DataError, match=r"extra_info\.map"):
        score(item("", "", facts))


stops = st.sampled_from([stop for stations in LINES.values() for stop in stations])
legs_of = st.lists(st.tuples(st.sampled_from([*LINES, "Black"]), stops, stops), max_size=4)


@given(legs_of, stops, stops, st.integers(0, 3))
def test_the_credit_of_right_and_of_all_routes(legs, start, end, transfers):
    result = routed(legs, start, end, transfers)
    assert result.parts["detail"] <= 10
    if result.accuracy and len(legs) == transfers + 1 == 1:
        assert result.parts["detail"] == 6
    if result.accuracy and len(legs) == transfers + 1 > 1:
        assert result.parts["detail"] == min(2 + 4 * len(legs) - 1, 10)


def test_names_without_their_ornaments():
    plain = module_of("rewardmap").plain
    assert {plain(name) for name in ("West-Lake Station", "west lake", "West Lake (line 1)", " WESTLAKE")} == {
        "westlake"
    }
