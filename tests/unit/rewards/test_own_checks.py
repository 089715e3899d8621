"""The checks of truths that users' files have for their own rewards, and what is logged of rows that are malformed."""

from __future__ import annotations

import logging

import pytest

from mars.errors import ConfigError, DataError
from mars.inputs import _truth_check
from mars.rewards.functions import RewardsBySet, check_truth, truth_check
from mars.rewards.local import LocalScorer
from mars.rewards.trial import run_trials
from tests.builders import make_prompt
from tests.unit.recipes.recipe_files import item

FILE = """
from mars.errors import DataError
from mars.rewards.vqa import check_truth as check_short

def short(item):
    return 0.0

def long(item):
    if len(item.truth) < 3:
        raise DataError(f"truth: got {item.truth!r}; want a long text")
    return 0.5

def check_long(truth, extra_info, truth_size):
    if truth == "raise":
        raise KeyError("no such thing")
    if truth == "number":
        return 3
    if len(truth) < 3:
        raise DataError(f"truth: got {truth!r}; want a long text")
    return f"truth: {truth} is not in {truth_size}" if extra_info.get("wrong") else None

def plain(item):
    return 0.0

def wide(item):
    return 0.0

def check_wide(item):
    return None
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(FILE)
    return str(path)


def test_the_check_of_a_reward_is_the_function_with_its_name(file):
    check = truth_check(f"{file}:long")
    assert check("red", {}, None) is None
    assert check("", {}, None) == "truth: got ''; want a long text"
    assert check("red", {"wrong": True}, (4, 2)) == "truth: red is not in (4, 2)"
    assert check_truth(f"{file}:short", "[1, 2]", {}) == check_truth("vqa", "[1, 2]", {}) != None  # noqa: E711
    assert check_truth(f"{file}:plain", "", {}) is None, "it has no check"


def test_a_file_without_the_check_is_not_run(tmp_path):
    path = tmp_path / "own.py"
    path.write_text("raise SystemExit('it was run')\n\ndef score(item): ...\n\ndef check_scores(): ...\n")
    assert check_truth(f"{path}:score", "", {}) is None
    path.write_text(path.read_text() + "\ncheck_score = None\n")
    with pytest.raises(ConfigError, match="it was run"):
        truth_check(f"{path}:score")


@pytest.mark.parametrize(
    ("name", "truth", "message"),
    [
        ("long", "raise", r"own\.py:check_long failed on the truth 'raise': KeyError"),
        ("long", "number", r"own\.py:check_long returned int; want \(truth, extra_info, truth_size\)"),
        ("wide", "", r"own\.py:check_wide takes \(item\)"),
    ],
)
def test_a_check_that_is_wrong_is_an_error_of_the_configuration(file, name, truth, message):
    with pytest.raises(ConfigError, match=message):
        truth_check(f"{file}:{name}")(truth, {}, None)


def test_rows_are_checked_with_the_reward_of_their_set(file):
    check = _truth_check(RewardsBySet("", {"a": f"{file}:long", "b": "grounding"}))
    prompts = [
        make_prompt("p", [], truth=truth, data_source=name) for name, truth in (("a", "x"), ("b", "x"), ("c", ""))
    ]
    found = [check(prompt) for prompt in prompts]
    assert found[0] == "truth: got 'x'; want a long text"
    assert found[1].startswith("truth: ")
    assert found[2] is None, "a set without a reward is reported elsewhere"


def test_a_trial_refuses_the_truths_of_an_own_check(file):
    with pytest.raises(DataError, match=r"rows:2: truth: got 'x'"):
        list(run_trials(f"{file}:long", "strict", [("rows:1", item("", "red")), ("rows:2", item("", "x"))], 1.0))


def test_each_malformed_row_is_logged_by_its_name_without_a_traceback(file, caplog):
    scorer = LocalScorer(f"{file}:long", "strict")
    with caplog.at_level(logging.ERROR):
        rows = [item(str(k), "x", {"id": "a"}) for k in range(3)] + [item("", "y", {"id": 7}), item("", "z")]
        failed = [result.failed for result in scorer.score(rows)]
    assert failed[2:] == [
        "DataError: row a: truth: got 'x'; want a long text",
        "DataError: row 7: truth: got 'y'; want a long text",
        "DataError: truth: got 'z'; want a long text",
    ]
    texts = [record.getMessage() for record in caplog.records]
    assert [text.partition(": DataError: ")[2][:5] for text in texts] == ["row a", "row 7", "truth"]
    assert not any("Traceback" in text or "\n" in text for text in texts)


def test_only_the_first_malformed_rows_are_logged(file, caplog):
    scorer = LocalScorer(f"{file}:long", "strict")
    with caplog.at_level(logging.ERROR):
        scorer.score([item("", "x", {"id": str(k)}) for k in range(60)])
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 21
    assert "row 19: " in texts[19]
    assert "more rows are malformed, and only counted" in texts[20]
