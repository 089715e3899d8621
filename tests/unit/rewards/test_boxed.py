"""Answers in \\boxed{...}: which box, what is in it, whether it is right, and the form around it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.errors import DataError
from mars.rewards.boxed import boxed, boxed_accuracy, has_blocks_and_box
from tests.shipped.recipes.recipe_files import item


@given(st.text("ab{}\\", max_size=12))
def test_the_last_box_with_balanced_braces_is_the_answer(text):
    assert boxed(f"\\boxed{{1}} {text} \\boxed{{x{{2}}}}") == "x{2}"
    assert boxed("\\boxed{" + "{" * (1 + len(text))) is None


@pytest.mark.parametrize(
    ("text", "accuracy"), [("\\boxed{4}", 1), ("4", 0), ("", 0), ("\\boxed{}", 0), ("\\boxed{4", 0), ("\\boxed{5}", 0)]
)
def test_an_answer_counts_only_in_a_box(text, accuracy):
    assert boxed_accuracy(item(text, "4")) == accuracy


def test_a_malformed_truth_is_refused_whatever_the_answer():
    for text in ("\\boxed{4}", "no box"):
        with pytest.raises(DataError, match="truth"):
            boxed_accuracy(item(text, ""))


@pytest.mark.parametrize(
    ("text", "has_form"),
    [
        ("<a>1</a><b>2</b>\\boxed{3}", True),
        (" \n<a>1</a> then <b>2</b> so \\boxed{3}.", True),
        ("<b>2</b><a>1</a>\\boxed{3}", False),
        ("<a>1</a>\\boxed{3}<b>2</b>", False),
        ("<a>1</a><b>2</b>\\boxed{3", False),
        ("<a>1</a><a>1</a><b>2</b>\\boxed{3}", False),
        ("<a>1<b>2</b>\\boxed{3}", False),
        ("So <a>1</a><b>2</b>\\boxed{3}", False),
        ("\\boxed{3}", False),
    ],
)
def test_blocks_in_order_and_then_a_box(text, has_form):
    assert has_blocks_and_box(text, "a", "b") == has_form
