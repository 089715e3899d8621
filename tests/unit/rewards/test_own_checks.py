"""The checks of truths that users' files have for their own rewards, and what is logged of rows that are malformed."""

from __future__ import annotations

import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from mars.data.rows.problems import RowProblem, report
from mars.errors import ConfigError, DataError
from mars.inputs import _truth_check
from mars.rewards.functions import RewardsBySet, check_truth, truth_check
from mars.rewards.local import LocalScorer
from mars.rewards.trial import run_trials
from tests.builders import make_prompt
from tests.shipped.recipes.recipe_files import item

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
    if truth == "exit":
        raise SystemExit(0)
    if truth == "number":
        return 3
    if truth == "empty":
        return ""
    if truth == "blank":
        raise DataError(" ")
    if truth == "lines":
        return "not one\\nbut two"
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
        ("long", "exit", r"own\.py:check_long failed on the truth 'exit': SystemExit: 0"),
        ("long", "number", r"own\.py:check_long returned int; want \(truth, extra_info, truth_size\)"),
        ("long", "empty", r"own\.py:check_long gave an empty text for 'empty'; want \(truth, extra_info, truth_size\)"),
        ("long", "blank", r"own\.py:check_long gave an empty text for 'blank'"),
        ("wide", "", r"own\.py:check_wide takes \(item\)"),
    ],
)
def test_a_check_that_is_wrong_is_an_error_of_the_configuration(file, name, truth, message):
    with pytest.raises(ConfigError, match=message):
        truth_check(f"{file}:{name}")(truth, {}, None)


REFUSING = "def refuse(truth, extra_info, truth_size): return 'refused'\n"


@pytest.mark.parametrize(
    "text",
    [
        "# coding: latin-1\nfrom typing import Any\n" + REFUSING + "check_score: Any = refuse",
        REFUSING + "if True:\n    check_score = refuse",
        REFUSING
        + "try:\n    import nothing_of_this_name as check_score\nexcept ImportError:\n    check_score = refuse",
        REFUSING + "check_score, other = refuse, None",
        REFUSING + "with open(__file__):\n    for check_score in [refuse]: ...",
        REFUSING + "def register():\n    global check_score\n    check_score = refuse\nregister()",
        "from checks_of_this_folder import *",
    ],
)
def test_a_check_is_found_however_the_file_defines_it(tmp_path, text):
    (tmp_path / "checks_of_this_folder.py").write_text(REFUSING + "check_score = refuse")
    (tmp_path / "own.py").write_text(text)
    assert check_truth(f"{tmp_path / 'own.py'}:score", "", {}) == "refused"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("async def check_score(truth, extra_info, truth_size): ...", "not a plain function; got an async function"),
        ("class check_score: ...", "not a plain function; got type"),
        ("if False:\n    def check_score(*_): ...", "names 'check_score', but it is None or not defined once"),
        ("check_score: int", "names 'check_score', but it is None or not defined once"),
    ],
)
def test_a_check_that_cannot_be_called_is_refused(tmp_path, text, message):
    (tmp_path / "own.py").write_text(text)
    with pytest.raises(ConfigError, match=message):
        truth_check(f"{tmp_path / 'own.py'}:score")


@pytest.mark.parametrize(
    "text",
    [
        "raise SystemExit('it was run')\ndef other():\n    check_score = None\n\nclass One:\n    check_score = None",
        "raise SystemExit('it was run')\ndef other():\n    global check_score\n    return check_score",
        "from math import *",
    ],
)
def test_the_same_name_elsewhere_is_no_check(tmp_path, text):
    (tmp_path / "own.py").write_text(text)
    assert check_truth(f"{tmp_path / 'own.py'}:score", "", {}) is None


@pytest.fixture
def same_names(tmp_path):
    """Two rewards in two folders with modules of the same names. Their checks call extra_info["visit"]."""
    specs = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        for helper in ("helper_of_checks", "late_helper_of_checks"):
            (folder / f"{helper}.py").write_text(f"NAME = {name!r}\n")
        (folder / "own.py").write_text(
            "import helper_of_checks\n"
            "def check_score(truth, extra_info, truth_size):\n"
            "    extra_info['visit']()\n"
            "    import helper_of_checks as again, late_helper_of_checks as late\n"
            "    return again.NAME + late.NAME\n"
        )
        specs.append(f"{folder / 'own.py'}:score")
    yield specs
    assert not {"helper_of_checks", "late_helper_of_checks"} & set(sys.modules)


def test_checks_of_different_files_run_one_after_the_other(same_names):
    checks = [truth_check(spec) for spec in same_names]
    met = threading.Barrier(2)

    def visit():
        with suppress(threading.BrokenBarrierError):  # the first one waits in vain, the second one does not wait
            met.wait(0.2)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda check: check("", {"visit": visit}, None), checks))
    assert found == ["aa", "bb"]
    assert met.broken, "both ran at once"


def test_a_file_is_not_loaded_while_a_check_runs(same_names):
    first, second = same_names
    loaded = []
    other = threading.Thread(target=lambda: loaded.append(truth_check(second)))

    def visit():
        other.start()
        other.join(0.2)
        assert not loaded

    assert truth_check(first)("", {"visit": visit}, None) == "aa"
    other.join()
    assert loaded[0]("", {"visit": lambda: None}, None) == "bb"


def test_a_check_may_use_the_check_of_another_file(tmp_path, file):
    (tmp_path / "outer.py").write_text(
        "from mars.rewards.functions import check_truth\n"
        f"def check_score(truth, extra_info, truth_size): return check_truth({file + ':long'!r}, truth, extra_info)\n"
    )
    assert check_truth(f"{tmp_path / 'outer.py'}:score", "x", {}) == "truth: got 'x'; want a long text"


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


def test_a_reason_of_two_lines_is_one_line_of_a_list(file):
    two = r"not one\nbut two"
    with pytest.raises(DataError) as refused:
        list(run_trials(f"{file}:long", "strict", [("rows:1", item("", "lines"))], 1.0))
    assert str(refused.value) == f"rows:1: {two}"
    reason = truth_check(f"{file}:long")("lines", {}, None)
    assert report([RowProblem("rows:1", "truth", reason)], 2).splitlines()[1] == f"  rows:1  truth  {two}"


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
