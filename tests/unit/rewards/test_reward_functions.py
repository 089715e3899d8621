"""Loading a user's function and checking what it returns, in this process."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Iterable
from enum import Enum
from pathlib import Path

import pytest

from mars.errors import ConfigError
from mars.rewards.built_in import BUILT_IN, wanted_rewards
from mars.rewards.contract import PartsScorer, check_parts, check_self_test, failed_result
from mars.rewards.functions import as_result, check_truth, load_reward
from mars.rewards.local import LocalScorer
from mars.types import RewardInput, RewardResult
from tests.builders import make_item

FILE = Path(__file__).parent / "user_rewards.py"


def test_built_in_rewards() -> None:
    assert load_reward("vqa", "strict")(make_item("<answer>yes</answer>", "yes")).score == 1.25
    assert (
        load_reward("grounding", "strict")(make_item("<answer>[[0, 0, 1, 1]]</answer>", "[[0, 0, 1, 1]]")).score == 1.25
    )


def test_both_signatures() -> None:
    assert load_reward(f"{FILE}:length", "strict")(make_item("abc")) == RewardResult(6.0, 1.0, {})
    assert load_reward(f"{FILE}:judge", "strict")(make_item("abc")) == RewardResult(0.5, 0.5, {})
    item = make_item("red", "red", bonus=2)
    assert load_reward(f"{FILE}:verl", "strict")(item) == RewardResult(1.0, 1.0, {"bonus": 2.0, "is_test": 1.0})
    assert load_reward(f"{FILE}:verl_short", "strict")(make_item("red", "blue")) == RewardResult(0.0, 0.0, {})
    assert load_reward(f"{FILE}:verl_open", "strict")(item).parts == {"number_of_others": 2.0}


def test_relative_paths(monkeypatch) -> None:
    monkeypatch.chdir(FILE.parent)
    assert load_reward("user_rewards.py:length", "strict")(make_item("abc")).score == 6.0


@pytest.mark.parametrize(
    ("spec", "fragment"),
    [
        ("groundning", f"want one of {wanted_rewards()}"),
        ("", "no such reward"),
        ("user_rewards.py", "no such reward"),
        (":length", "no such reward"),
        (f"{FILE}:", "no such reward"),
        (f"{FILE}:a b", "no such reward"),
        ("/nowhere/reward.py:score", "no such file"),
        (f"{FILE.parent}:score", "no such file"),
        (f"{FILE}:absent", "has no 'absent'"),
        (f"{FILE}:not_a_function", "got int"),
        (f"{FILE}:Judge", "got type"),
        (f"{FILE}:later", "got an async function"),
        (f"{FILE}:later_judge", "got an async function"),
        (f"{FILE}:partly_later", "got an async function"),
        (f"{FILE}:stream", "got an async generator"),
        (f"{FILE}:steps", "got a generator"),
        (f"{FILE}:two", "missing a required argument: 'other'"),
        (f"{FILE}:verl_and_more", "missing a required argument: 'judge'"),
    ],
)
def test_wrong_specs_are_config_errors(spec: str, fragment: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_reward(spec, "strict")
    assert str(caught.value).startswith("reward.function: ")
    assert fragment in str(caught.value)


@pytest.mark.parametrize(
    ("code", "fragment"),
    [("def f(:", "SyntaxError"), ("import no_such_module", "no_such_module"), ("raise SystemExit(3)", "SystemExit")],
)
def test_files_that_cannot_be_loaded(tmp_path: Path, code: str, fragment: str) -> None:
    (tmp_path / "broken.py").write_text(code)
    with pytest.raises(ConfigError, match=fragment):
        load_reward(f"{tmp_path / 'broken.py'}:f", "strict")


def test_not_a_python_file(tmp_path: Path) -> None:
    (tmp_path / "reward.txt").write_text("def f(item): return 1.0")
    with pytest.raises(ConfigError, match="not a Python file"):
        load_reward(f"{tmp_path / 'reward.txt'}:f", "strict")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("one", RewardResult(1.0, 1.0, {})),
        ("half", RewardResult(0.5, 0.5, {})),
        ("fraction", RewardResult(0.25, 0.25, {})),
        ("minus", RewardResult(-3.0, 0.0, {})),
        ("at the bound", RewardResult(-1e6, 0.0, {})),
        ("dict large part", RewardResult(1.0, 1.0, {"time": 1.7e18})),
        ("dict", RewardResult(3.0, 1.0, {"acc": 1.0, "steps": 4.0})),
        ("result", RewardResult(1.25, 0.5, {"format": 0.75, "accuracy": 0.5})),
    ],
)
def test_good_returns(name: str, expected: RewardResult) -> None:
    scorer = LocalScorer(f"{FILE}:returns", "strict")
    assert scorer.score([make_item(name)]) == [expected]
    scorer.close()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nan", "score is not a finite number; got nan"),
        ("inf", "score is not a finite number; got inf"),
        ("minus inf", "score is not a finite number; got -inf"),
        ("huge", "score is not a finite number; got one of int beyond the range of float"),
        ("beyond", "score is not in [-1e+06, 1e+06]; got 1e+308"),
        ("below", "score is not in [-1e+06, 1e+06]; got -1010000.0"),
        ("dict beyond", "score is not in [-1e+06, 1e+06]; got 1e+155"),
        ("result beyond", "score is not in [-1e+06, 1e+06]; got 2000000.0"),
        ("none", "score is not a number; got NoneType None"),
        ("true", "score is not a number; got bool True"),
        ("text", "score is not a number; got str '1.0'"),
        ("list", "score is not a number; got list [1.0]"),
        ("complex", "score is not a number; got complex 1j"),
        ("tuple", "score is not a number; got tuple (1.0, {})"),
        ("no score", "a mapping without 'score'; got "),
        ("unspeakable", "no text for this"),
        ("dict nan", "score is not a finite number; got nan"),
        ("dict true", "score is not a number; got bool True"),
        ("dict text", "score is not a number; got str '1'"),
        ("dict nan part", "steps is not a finite number; got nan"),
        ("dict accuracy 3", "accuracy is not in [0, 1]; got 3.0"),
        ("result nan", "score is not a finite number; got nan"),
        ("result accuracy nan", "accuracy is not a finite number; got nan"),
        ("result accuracy 2", "accuracy is not in [0, 1]; got 2.0"),
        ("result text part", "format is not a number; got str 'good'"),
        ("result failed", "the judge is offline"),
        ("unheard of", "KeyError: 'unheard of'"),
    ],
)
def test_bad_returns_are_failures_with_a_reason(name: str, reason: str) -> None:
    (result,) = LocalScorer(f"{FILE}:returns", "strict").score([make_item(name)])
    assert result.failed is not None
    assert reason in result.failed
    assert len(result.failed) <= 300


class Part(str, Enum):  # noqa: UP042 as many users write it
    FORM = "form"


class Loud(str):
    def __str__(self) -> str:
        return self


@pytest.mark.parametrize(
    "value",
    [
        RewardResult(1.0, 1.0, {Part.FORM: 0.5}),
        RewardResult(1.0, 1.0, {Loud("form"): 0.5}),
        {"score": 1.0, Loud("form"): 0.5},
    ],
)
def test_names_of_parts_are_plain_text_which_the_driver_can_unpickle(value: object) -> None:
    result = as_result(value)
    assert (result, *map(type, result.parts)) == (RewardResult(1.0, 1.0, {"form": 0.5}), str)
    assert b"test_reward_functions" not in pickle.dumps(result)


def test_reasons_are_plain_text_too() -> None:
    assert type(as_result(RewardResult(0.0, 0.0, {}, failed=Loud("why"))).failed) is str


def test_a_malformed_truth_fails_its_sample_only() -> None:
    good = make_item("<answer>yes</answer>", "yes")
    results = LocalScorer("vqa", "strict").score([good, make_item("<answer>yes</answer>", ""), good])
    assert [result.score for result in results] == [1.25, 0.0, 1.25]
    assert results[1].failed is not None
    assert "DataError: truth: empty" in results[1].failed


def test_each_distinct_error_is_logged_once_with_its_traceback(caplog) -> None:
    scorer = LocalScorer(f"{FILE}:misbehave", "strict")
    with caplog.at_level(logging.ERROR):
        scorer.score([make_item("raise one"), make_item("raise \x1b[2J"), make_item("nan"), make_item("nan")])
        scorer.score([make_item("raise three"), make_item("fine")])
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 2
    assert "cannot read one" in texts[0]
    assert "Traceback" in texts[0]
    assert "user_rewards.py" in texts[0]
    assert "score is not a finite number" in texts[1]


def test_control_characters_of_an_error_are_escaped(caplog) -> None:
    (result,) = LocalScorer(f"{FILE}:misbehave", "strict").score([make_item("raise \x1b[2J\ud800")])
    assert result.failed == "ValueError: cannot read \\x1b[2J\\ud800"
    assert "\x1b" not in caplog.text


def test_ctrl_c_is_not_a_failed_sample(tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text("def f(item): raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        LocalScorer(f"{tmp_path / 'reward.py'}:f", "strict").score([make_item("")])


def test_self_test() -> None:
    scorer = LocalScorer(f"{FILE}:misbehave", "strict")
    some, all_fail = [make_item("raise"), make_item("fine")], [make_item("raise x"), make_item("nan")]
    check_self_test(some, scorer.score(some), {}, "look")
    check_self_test([], [], {"any": 1.0}, "look")
    with pytest.raises(ConfigError, match=r"reward\.function: failed on each of the 2 items.*cannot read x"):
        check_self_test(all_fail, scorer.score(all_fail), {}, "look")


def test_a_result_without_a_weighted_part_or_beyond_its_bound_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    given = [
        RewardResult(1.0, 1.0, {"format": 1.0, "length": -1e6}),
        RewardResult(1.0, 1.0, {"length": 0.0}),
        RewardResult(1.0, 1.0, {"format": 1.0, "length": 1.1e6}),
        RewardResult(1.0, 1.0, {"format": 1.0, "length": 0.0, "other": 1e9}),
        failed_result("no answer"),
    ]

    class Given(LocalScorer):
        def score(self, items: Iterable[RewardInput]) -> list[RewardResult]:
            return given

    scorer = PartsScorer(Given(f"{FILE}:misbehave", "strict"), {"format": 1.0, "length": 0.5})
    found = scorer.score([])
    assert [result.failed for result in found] == [
        None,
        "no part format, which algorithm.part_weights names; got length",
        "length is not in [-1e+06, 1e+06]; got 1100000.0",
        None,
        "no answer",
    ]
    assert [found[0], found[3]] == [given[0], given[3]]
    scorer.score([])
    assert caplog.messages == [
        "reward.function: no part format, which algorithm.part_weights names; got length; the sample is masked; this "
        "is logged once",
        "reward.function: length is not in [-1e+06, 1e+06]; got 1100000.0; the sample is masked; this is logged once",
    ]


def test_the_self_test_names_parts_that_a_reward_lacks() -> None:
    scorer = LocalScorer(f"{FILE}:verl", "strict")
    items = [make_item("red", "red", bonus=2), make_item("blue", "red", bonus=1)]
    check_self_test(items, scorer.score(items), {"bonus": 1.0, "is_test": 0.5}, "look")
    with pytest.raises(ConfigError) as refused:
        check_self_test(items, scorer.score(items), {"bonus": 1.0, "format": 1.0, "length": 2.0}, "look")
    source = items[0].data_source
    assert str(refused.value) == (
        f"algorithm.part_weights: the reward of data_source {source!r} has no part format, length; "
        "got bonus, is_test; name parts that it has"
    )
    failing = LocalScorer(f"{FILE}:misbehave", "strict")  # a failed result has no parts, and is masked in a run
    items = [make_item("raise"), make_item("fine")]
    with pytest.raises(ConfigError, match="has no part bonus; got none;"):
        check_self_test(items, failing.score(items), {"bonus": 1.0}, "look")
    check_parts([make_item("raise")], failing.score([make_item("raise")]), {"bonus": 1.0})


@pytest.mark.parametrize("scorer", ["strict", "compat"])
@pytest.mark.parametrize(("name", "truth"), [("vqa", "yes"), ("grounding", "[[0, 0, 1, 1]]")])
@pytest.mark.parametrize("answer", ["", "<answer>yes</answer>", "<answer>[[0, 0, 1, 1]]</answer>"])
def test_built_in_rewards_have_the_parts_of_the_table(name: str, truth: str, scorer: str, answer: str) -> None:
    result = load_reward(name, scorer)(make_item(answer, truth))
    assert set(result.parts) == set(BUILT_IN[name].parts)


def test_nothing_is_known_of_the_truths_of_a_users_function() -> None:
    assert check_truth(f"{FILE}:length", "", {}) is None
