"""recipe/perception_r1: the weights, the question to the judge, and its verdicts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.errors import ConfigError, DataError
from tests.shipped.recipes.recipe_files import answer, item, module_of
from tests.shipped.recipes.recipe_judge import judge_of_recipe
from tests.unit.rewards.judge_server import says

FACTS = {"facts": ["There is a red car.", "It is  night.", "Two people walk.", "The road is wet."]}
module = module_of("perception_r1")


@pytest.fixture
def judge(monkeypatch):
    with judge_of_recipe(module, monkeypatch) as server:
        yield server


def test_the_score_by_hand(judge):
    judge.steps.append(says("1: yes\n2. no\n**3**: Yes\n"))
    result = module.score(item(answer("\\boxed{red}", "a red car and two people"), "red", FACTS))
    assert result.parts == {"accuracy": 1, "format": 1, "facts": 0.5, "repetition": 0}
    assert result.score == pytest.approx(1 + 0.1 + 0.7 * 0.5)
    ((_, _, body),) = judge.requests
    asked = body["messages"][0]["content"]
    assert (body["model"], body["temperature"]) == ("a-judge", 0)
    assert "2. It is night.\n" in asked
    assert asked.endswith("<answer>\\boxed{red}</answer>")


def test_repeated_text_costs_up_to_two_points(judge):
    judge.steps.append(says("none of them"))
    words = " ".join(f"w{k}" for k in range(20))
    result = module.score(item(f"{words} {words}", "red", FACTS))
    # 40 words have 21 20-grams; only the last one has been there before: it is the first again.
    assert result.parts == {"accuracy": 0, "format": 0, "facts": 0, "repetition": pytest.approx(1 / 21)}
    assert result.score == pytest.approx(-2 / 21)
    judge.steps.append(says("none of them"))
    louder = module.score(item(f"{words} {words.upper()}", "red", FACTS))
    assert louder.parts["repetition"] == pytest.approx(1 / 21), "small and capital letters are the same"


@pytest.mark.parametrize(
    ("response", "form", "accuracy"),
    [
        (answer("It is \\boxed{red}, so."), 1, 1),
        (answer("red"), 0, 1),
        (answer("\\boxed{}"), 0, 0),
        (answer("\\boxed{red}", ""), 0, 1),
        (answer("\\boxed{red}", " \n"), 0, 1),
        (answer("\\boxed{red}") + ".", 0, 1),
    ],
)
def test_the_form_needs_a_thought_and_a_box(response, form, accuracy, judge):
    judge.steps.append(says("none of them"))
    parts = module.score(item(response, "red", FACTS)).parts
    assert (parts["format"], parts["accuracy"]) == (form, accuracy)


def test_an_empty_response_asks_nothing(judge):
    assert module.score(item(" ", "red", FACTS)).score == 0
    assert judge.requests == []


@pytest.mark.parametrize(
    ("verdicts", "share"),
    [
        ("1: yes\n2: yes\n3: yes\n4: yes", 1),
        ("", 0),
        ("yes", 0),
        ("1: yes\n1: no", 0),
        ("7: yes\n1) yes", 0.25),
        ("1\nyes", 0),
        ("1:\n\nyes", 0),
        ("  - 2. Yes", 0.25),
    ],
)
def test_verdicts(verdicts, share):
    assert module.found_share(verdicts, 4) == share


@pytest.mark.parametrize("text", ["\n", "*", "1", "1:", " \n", "1:\n"])
def test_a_judge_that_repeats_itself_is_read_at_once(text):
    """In quadratic time, some of these would take an hour."""
    assert module.found_share(text * 500_000, 4) == 0


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_the_share_is_that_of_the_yeses(verdicts):
    text = "\n".join(f"{k}: {'yes' if yes else 'no'}" for k, yes in enumerate(verdicts, start=1))
    assert module.found_share(text, len(verdicts)) == pytest.approx(sum(verdicts) / len(verdicts))


@pytest.mark.parametrize("facts", [None, [], ["a", " "], "a fact", [3]])
def test_a_row_without_facts_is_an_error(facts):
    with pytest.raises(DataError, match=r"extra_info\.facts"):
        module.score(item(answer("red"), "red", {"facts": facts}))


def test_without_a_judge_the_error_names_what_is_missing(monkeypatch):
    monkeypatch.delenv("JUDGE_URL", raising=False)
    module.judge.cache_clear()
    with pytest.raises(ConfigError, match="JUDGE_URL, JUDGE_MODEL: not set"):
        module.score(item(answer("red"), "red", FACTS))
