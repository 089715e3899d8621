"""The benchmark's reward: right or wrong, worked out by hand, for any text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.errors import DataError
from mars.rewards.functions import check_truth, load_reward
from tests.shipped.recipes.recipe_files import ROOT, item

SPEC = f"{ROOT}/recipe/effect/reward.py:answer"
score = load_reward(SPEC, "strict")


def result(response, truth, task):
    found = score(item(response, truth, {"task": task}))
    assert found.failed is None
    assert found.score == found.accuracy
    return found.score


@pytest.mark.parametrize(
    ("given", "truth", "task", "right"),
    [
        ("7", "7", "where", 1),
        (" 7 ", "7", "where", 1),
        ("07", "7", "where", 1),
        ("8", "7", "where", 0),
        ("7 7", "7", "where", 0),
        ("7.0", "7", "where", 0),
        ("-7", "7", "where", 0),
        ("7\n", "7", "where", 0),
        ("", "7", "where", 0),
        ("seven", "7", "where", 0),
        ("٧", "7", "where", 0),
        ("⁷", "7", "where", 0),
        ("1 or 2", "1", "count", 0),
        ("3", "3", "count", 1),
        ("2 1 6 4", "2 1 6 4", "box", 1),
        ("2 1  6 4", "2 1 6 4", "box", 1),
        ("0 0 4 2", "0 0 4 4", "box", 1),  # 8 of 16
        ("0 0 4 1", "0 0 4 4", "box", 0),  # 4 of 16
        ("1 0 5 4", "0 0 4 4", "box", 1),  # 12 of 20
        ("2 0 6 4", "0 0 4 4", "box", 0),  # 8 of 24
        ("4 4 0 0", "0 0 4 4", "box", 0),
        ("0 0 0 4", "0 0 4 4", "box", 0),
        ("0 0 4 9", "0 0 4 8", "box", 0),  # IoU 8/9, but no box of the image
        ("0,0,4,4", "0 0 4 4", "box", 0),
        ("[0 0 4 4]", "0 0 4 4", "box", 0),
        ("0 0 4", "0 0 4 4", "box", 0),
        ("0 0 4 4 4", "0 0 4 4", "box", 0),
        ("4", "0 0 4 4", "box", 0),
        ("9" * 5000, "7", "where", 0),
    ],
)
def test_an_answer_is_right_or_wrong(given, truth, task, right):
    assert result(f"<think>visible</think><answer>{given}</answer>", truth, task) == right


@pytest.mark.parametrize(
    "response",
    [
        "",
        "7",
        "<answer>7",
        "<answer>7</answer><answer>7</answer>",
        "<answer>7</answer><answer>8</answer>",
        "<think><answer>7</answer></think>",
        "<ANSWER>7</ANSWER>",
        "</answer>7<answer>",
    ],
)
def test_a_response_without_one_answer_is_wrong(response):
    assert result(response, "7", "where") == 0


@pytest.mark.parametrize("thought", ["infrared", "visible", "", "7", "looking"])
def test_the_thought_does_not_count(thought):
    assert result(f"<think>{thought}</think><answer>7</answer>", "7", "where") == 1
    assert result(f"<think>{thought}</think><answer>6</answer>", "7", "where") == 0
    assert result("<answer>7</answer>", "7", "where") == 1


@given(st.text(max_size=60), st.sampled_from([("where", "7"), ("count", "2"), ("box", "1 2 3 4")]))
def test_no_text_fails(text, row):
    task, truth = row
    for response in (text, f"<answer>{text}</answer>"):
        assert result(response, truth, task) in (0, 1)


@pytest.mark.parametrize(
    ("truth", "task"),
    [
        ("17", "where"),
        ("0", "where"),
        ("5", "count"),
        ("", "count"),
        ("1 2", "count"),
        ("4 4 2 2", "box"),
        ("1", "box"),
    ],
)
def test_a_truth_that_does_not_fit_its_task_is_named(truth, task):
    assert check_truth(SPEC, truth, {"task": task}).startswith("truth: ")
    with pytest.raises(DataError, match=r"^truth: "):
        score(item("<answer>1</answer>", truth, {"task": task}))


@pytest.mark.parametrize("extra_info", [{}, {"task": "grounding"}, {"task": None}])
def test_a_row_without_a_task_is_named(extra_info):
    assert check_truth(SPEC, "7", extra_info).startswith("extra_info.task: unknown")
