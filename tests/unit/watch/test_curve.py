"""Charts of characters: by hand, and for any numbers."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.watch import curve as curve_module
from mars.watch import stages as stages_module
from mars.watch.curve import BLOCKS, LETTERS, columns, curve
from mars.watch.stages import stage_shares

ANYTHING = st.one_of(st.none(), st.floats(), st.integers(), st.just(10**400), st.text(max_size=2))


def test_a_column_is_the_mean_of_its_steps():
    assert columns([0, 1, 2, 3, 4, 5], 3) == [0.5, 2.5, 4.5]
    assert columns([1, 2, 3, 4, 5], 2) == [1.5, 4.0]  # of steps 1 to 2 and 3 to 5
    assert columns([1.0, None, float("inf"), "x", 10**400], 9) == [1.0, None, None, None, None]


def test_the_lowest_bar_is_seen_and_the_highest_fills_the_lines():
    assert curve([0.0, 1.0, 2.0, 7.0], 1) == ["▁▂▃█"]
    assert curve([0.0, 15.0, 7.0], 2) == [" █ ", "▁██"]
    assert curve([0.0, None, 7.0], 1, LETTERS) == [". @"]
    assert curve([3.0, 3.0], 2) == ["  ", "██"]  # constant: half of the height
    assert curve([], 2) == ["", ""]


@given(st.lists(ANYTHING), st.integers(0, 12), st.integers(1, 4), st.sampled_from([BLOCKS, LETTERS]))
def test_a_curve_is_never_wider_than_asked(values: list, width: int, lines: int, levels: str):
    heights = columns(values, width)
    drawn = curve(heights, lines, levels)
    assert len(drawn) == lines
    assert {len(line) for line in drawn} == {min(len(values), width)}
    assert set("".join(drawn)) <= set(levels)
    for place, height in enumerate(heights):  # a place is empty if and only if there is nothing to draw
        assert (height is None) == (drawn[-1][place] == " ")


@given(st.lists(st.floats(-1e100, 1e100), min_size=1), st.integers(1, 3))
def test_a_higher_value_has_no_lower_bar(values: list[float], lines: int):
    drawn = curve(columns(values, len(values)), lines)
    heights = [sum(BLOCKS.index(line[place]) for line in drawn) for place in range(len(values))]
    in_order = [height for _, height in sorted(zip(values, heights, strict=True))]
    assert in_order == sorted(in_order)


def test_overlapping_stages_do_not_count_twice():
    row = {
        "timing_s/gen": 9.0,
        "timing_s/signals": 2.0,
        "timing_s/wait_rollouts": 1.0,
        "timing_s/update_actor": 3.0,
        "timing_s/step": 4.0,
    }
    assert stage_shares(row) == [("update_actor", 3.0, 0.75), ("wait_rollouts", 1.0, 0.25)]
    assert stage_shares({"timing_s/gen": 1.0}) == stage_shares({"timing_s/step": None}) == []


@pytest.mark.parametrize("module", [curve_module, stages_module])
def test_docstring_examples(module):
    assert doctest.testmod(module).failed == 0
