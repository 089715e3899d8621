from __future__ import annotations

import doctest
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.answers import boxes as boxes_module
from mars.answers.boxes import find_boxes
from tests.examples import examples

SIZE = (100, 50)


@pytest.mark.parametrize(
    "text",
    [
        '[{"bbox_2d": [10, 5, 20, 10], "label": "person"}]',
        '{"bbox_2d": [10, 5, 20, 10]}',
        '[{"bbox": [10, 5, 20, 10]}]',
        "[[10, 5, 20, 10]]",
        "[10, 5, 20, 10]",
        "<answer>[[10, 5, 20, 10]]</answer>",
        '<think>[1, 2]</think><answer>```json\n[{"bbox_2d": [10, 5, 20, 10]}]\n```</answer>',
        "<think>[1, 2]</think><answer>[[10, 5, 20, 10]]</answer> [sic]",
        "<think>[[0, 0, 1, 1]]</think>" + "x" * 30_000 + "<answer>[10, 5, 20, 10]</answer>",
        '```json\n[[0, 0, 1, 1]]\n``` no: ```json\n[{"bbox_2d": [10, 5, 20, 10]}]',
    ],
)
def test_the_forms_boxes_come_in(text: str) -> None:
    assert find_boxes(text, SIZE) == [(0.1, 0.1, 0.2, 0.2)]


@pytest.mark.parametrize(
    "text",
    [
        "yes",
        "",
        "[NaN, 0, 1, 1]",
        "[1e999, 0, 1, 1]",
        "[true, 0, 1, 1]",
        "[5, 5, 5, 9]",
        "[9, 9, 5, 5]",
        "[1, 2, 3]",
        '{"bbox_2d": "1, 2, 3, 4"}',
        "[" + "9" * 400 + ", 0, 1, 1]",
        "[" + "9" * 5000 + ", 0, 1, 1]",
        "[" * 19_000 + "]" * 19_000,
        "null",
    ],
)
def test_what_is_no_box_draws_nothing(text: str) -> None:
    assert find_boxes(text, SIZE) == []


def test_boxes_are_cut_to_the_frame() -> None:
    assert find_boxes("[[-10, -5, 50, 500]]", SIZE) == [(0, 0, 0.5, 1)]


@pytest.mark.parametrize("size", [None, (0, 10)])
def test_without_a_frame_nothing_is_drawn(size) -> None:
    assert find_boxes("[[1, 1, 2, 2]]", size) == []


def test_ten_thousand_boxes_are_bounded() -> None:
    assert len(find_boxes("[" + ",".join(["[1,1,2,2]"] * 1500) + "]", SIZE)) == 40


@pytest.mark.parametrize("unit", ["```json", "[", "{", "[{", "```", "]", '{"a":'])
def test_hostile_text_is_read_in_linear_time(unit: str) -> None:
    start = time.process_time()
    find_boxes(unit * (1_000_000 // len(unit)), SIZE)
    assert time.process_time() - start < 1


@examples(100)
@given(st.text(alphabet='[]{}",:0123456789.eE-+ `jsonbox_2dNaInfityrue\n', max_size=80))
def test_nothing_raises(text: str) -> None:
    for box in find_boxes(text, SIZE):
        assert 0 <= box[0] < box[2] <= 1
        assert 0 <= box[1] < box[3] <= 1


def test_docstring_examples() -> None:
    assert doctest.testmod(boxes_module).failed == 0
