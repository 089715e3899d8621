"""recipe/srpo: the table of answers, the length of a response, and both versions of the weights."""

from __future__ import annotations

from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.shipped.recipes.recipe_files import item, module_of, reward_of


def response(first, second, reflection=2):
    """The first think has three words and the answer one: the target is 8 words in all, the limit 10. The second
    attempt has two words."""
    words = " ".join(["word"] * reflection)
    return (
        f"<think>a b c</think><answer>{first}</answer>\n<reflection>{words}</reflection>\n"
        f"<think>d</think><answer>{second}</answer>"
    )


def scored(text, name="score"):
    return reward_of("srpo", name)(item(text, "4"))


@pytest.mark.parametrize(
    ("first", "second", "openrlhf", "verl"),
    [("4", "4", 0.75, 0.75), ("5", "4", 1.0, 1.0), ("4", "5", 0.25, -0.25), ("5", "6", 0.0, 0.0)],
)
def test_the_table_of_answers(first, second, openrlhf, verl):
    result = scored(response(first, second))
    assert result.parts["reflection"] == openrlhf
    assert result.score == pytest.approx(openrlhf + 0.5 + 0.1)
    assert result.accuracy == (second == "4")
    assert result.parts["first_right"] == (first == "4")
    assert scored(response(first, second), "score_as_in_verl").score == pytest.approx(0.5 * verl + 0.25 + 0.1)


def test_other_numbers_of_answers():
    one = "<think>a</think><answer>4</answer>"
    assert scored(one).score == 0.5
    assert scored(one, "score_as_in_verl").score == 0.5 * 0.75, "it is the first answer and the last"
    assert scored("<think>a</think><answer>5</answer>").score == 0
    assert scored("<answer>4</answer>" * 3).score == 0
    assert scored("").score == 0
    assert scored(response("5", "4") + " done").score == 1.0, "without form and length"


@pytest.mark.parametrize(("words", "length"), [(2, 1), (4, exp(-1)), (6, exp(-4)), (8, exp(-9)), (1, exp(-1 / 4))])
def test_the_length_of_a_response(words, length):
    """L = 3 + 1 + words + 1 + 1; the exponent is ((L - 8) / 2)^2."""
    assert scored(response("4", "4", words)).parts["length"] == pytest.approx(length)


def test_a_response_with_an_empty_block_has_no_form():
    empty = response("5", "4", 0)
    assert scored(empty).parts == {"reflection": 1.0, "format": 0, "length": 0, "first_right": 0}
    assert scored(empty.replace("a b c", " ")).score == 1


@given(st.integers(0, 200), st.integers(0, 50))
def test_the_target_length_is_best(words, first):
    module = module_of("srpo")
    found = module.length_reward(words, first, module.OPENRLHF)
    assert 0 <= found <= 1
    assert (found == 1) == (first > 0 and words == 2 * first)
