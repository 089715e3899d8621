"""Rewards that take all answers to a prompt at once (`reward.by_prompt`)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mars.errors import ConfigError
from mars.rewards.functions import RewardsBySet, load_list_reward
from mars.rewards.local import score_list
from mars.rewards.trial import run_trials
from mars.types import RewardResult
from tests.builders import make_item

CODE = """
from mars.types import RewardResult

def ranked(items):
    lengths = sorted(len(item.response) for item in items)
    return [lengths.index(len(item.response)) for item in items]

def as_given(items):
    return eval(items[0].truth)

def verl(data_sources, solution_strs, ground_truths, extra_infos):
    rows = zip(data_sources, solution_strs, ground_truths, extra_infos, strict=True)
    return [{"score": len(text) + len(truth), "n": info["n"]} for source, text, truth, info in rows if source == "test"]

def two(items, judge): ...

def raises(items):
    raise ValueError(f"cannot compare {len(items)}")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lists.py"
    path.write_text(CODE)
    return path


def test_a_function_sees_all_answers_at_once(file: Path) -> None:
    score = load_list_reward(f"{file}:ranked", "strict")
    assert [result.score for result in score([make_item("x" * n) for n in (3, 1, 2)])] == [2.0, 0.0, 1.0]
    assert [result.score for result in score([make_item("x")])] == [0.0]


def test_a_bad_value_fails_alone(file: Path) -> None:
    values = "[1.5, float('nan'), None, {'score': 2, 'acc': 1}, RewardResult(0.0, 0.0, {}, failed='no judge')]"
    results = load_list_reward(f"{file}:as_given", "strict")([make_item("x", values)] * 5)
    assert [result.score for result in results if result.failed is None] == [1.5, 2.0]
    assert [result.failed for result in results if result.failed is not None] == [
        "score is not a finite number; got nan",
        "score is not a number; got NoneType None",
        "no judge",
    ]


@pytest.mark.parametrize(
    ("value", "got"),
    [
        ("[1.0]", "1 values"),
        ("[]", "0 values"),
        ("None", "NoneType"),
        ("1.0", "float"),
        ("'ab'", "str"),
        ("{}", "dict"),
    ],
)
def test_without_a_value_for_each_answer_all_fail(file: Path, value: str, got: str) -> None:
    results = load_list_reward(f"{file}:as_given", "strict")([make_item("x", value)] * 2)
    assert [result.failed for result in results] == [f"want a list of 2 values, one for each answer; got {got}"] * 2


def test_an_exception_is_the_failure_of_each_answer(file: Path) -> None:
    scored = score_list(load_list_reward(f"{file}:raises", "strict"), [make_item("a"), make_item("b")])
    assert [item.result.failed for item in scored] == ["ValueError: cannot compare 2"] * 2
    assert "in raises" in scored[0].traceback


def test_the_signature_of_verls_batches(file: Path) -> None:
    items = [make_item("abc", "d", n=1), make_item("a", "", n=2)]
    assert load_list_reward(f"{file}:verl", "strict")(items) == [
        RewardResult(4.0, 1.0, {"n": 1.0}),
        RewardResult(1.0, 1.0, {"n": 2.0}),
    ]


def test_each_set_has_its_reward_and_built_in_ones_score_one_by_one(file: Path) -> None:
    score = load_list_reward(RewardsBySet("", {"test": "vqa", "ranks": f"{file}:ranked"}), "strict")
    right, wrong = make_item("<answer>yes</answer>", "yes"), make_item("<answer>no</answer>", "yes")
    assert [result.accuracy for result in score([right, wrong, right])] == [1, 0, 1]
    ranks = [replace(make_item("x" * n), data_source="ranks") for n in (2, 1)]
    assert [result.score for result in score(ranks)] == [1.0, 0.0]


def test_what_does_not_fit_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"reward\.function: .*missing a required argument: 'judge'.*items: list"):
        load_list_reward(f"{file}:two", "strict")
    with pytest.raises(ConfigError, match=r"reward\.scorer: "):
        load_list_reward(f"{file}:ranked", "compat")


def test_a_trial_gives_lists_of_one(file: Path) -> None:
    rows = [("", make_item("xx")), ("", make_item("x"))]
    trials = run_trials(f"{file}:ranked", "strict", rows, 30.0, by_prompt=True)
    assert [(trial.result.score, trial.result.failed) for trial in trials] == [(0.0, None), (0.0, None)]
