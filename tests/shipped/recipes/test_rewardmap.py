"""recipe/rewardmap: routes on a small map, by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.errors import DataError
from tests.shipped.recipes.recipe_files import answer, item, module_of, reward_of

LINES = {"Red Line": ["A", "B", "C Station", "D"], "Blue": ["X", "C", "Y"], "Green": ["Y", "Z"]}
MAP = {"kind": "planning", "difficulty": "easy", "lines": LINES, "start": "A", "end": "D", "transfers": 0}
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
    "facts",
    [
        {},
        {"map": {"difficulty": "odd"}},
        {"map": {"kind": "planning", "difficulty": "easy"}},
        {"map": {"difficulty": "easy"}},
        {"map": MAP | {"kind": "plan"}},
        {"map": MAP | {"difficulty": ["easy"]}},
        {"map": MAP | {"lines": {}}},
        {"map": MAP | {"lines": {"Red": None}}},
        {"map": MAP | {"lines": {"Red": "AB"}}},
        {"map": MAP | {"lines": {"Red": ["A", 2]}}},
        {"map": MAP | {"lines": {"Red": ["A"], "RED ": ["B"]}}},
        {"map": MAP | {"start": None}},
        {"map": MAP | {"end": "(x)"}},
        *({"map": MAP | {"transfers": wrong}} for wrong in (-3, "2", 2.7, None, True, float("inf"), float("nan"))),
    ],
)
def test_a_row_without_facts_is_an_error(facts):
    for text in ("", answer(leg("Red Line", "A", "D"))):
        with pytest.raises(DataError, match=r"extra_info\.map"):
            score(item(text, "x", facts))


def test_lines_are_told_apart_by_what_is_in_brackets():
    lines = {"Line 10 (East)": ["A", "B"], "Line 10 (West)": ["C", "D"]}
    for line, ends, right in (("Line 10 (East)", "AB", 1), ("line 10 (west)", "CD", 1), ("Line 10 (West)", "AB", 0)):
        facts = {"map": MAP | {"lines": lines, "start": ends[0], "end": ends[1]}}
        found = score(item(answer(leg(line, *ends)), "", facts))
        assert (found.accuracy, found.parts["detail"]) == (right, 6 if right else 2)


def test_maps_of_a_parquet_file_have_the_lines_of_others_without_stations():
    other = {"U1": None, **LINES, "U2": None}
    assert score(item(answer(leg("Red Line", "A", "D")), "", {"map": MAP | {"lines": other}})).score == 13
    assert score(item(answer(leg("U1", "A", "D")), "", {"map": MAP | {"lines": other}})).parts["detail"] == 2
    assert score(item(answer(leg("Red Line", "A", "D")), "", {"map": MAP | {"transfers": 0.0}})).score == 13


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
