"""A third built-in reward is one object in the table: everything that depends on which rewards exist then takes it."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from mars.cli.app import app
from mars.cli.check import sets_reward
from mars.cli.reward import try_reward
from mars.config.templates import BY_REWARD, OFF, template_file, template_folder
from mars.errors import ConfigError
from mars.rewards.built_in import BUILT_IN, built_in_names, table_of
from mars.rewards.functions import load_list_reward, load_reward
from mars.rewards.grounding import GROUNDING
from mars.rewards.local import LocalScorer
from mars.types import RewardResult
from tests.builders import make_item
from tests.fakes.count_reward import COUNT
from tests.unit.evaluation.result_files import line, vqa_text, write_folder


@pytest.fixture(autouse=True)
def third(monkeypatch):
    monkeypatch.setitem(BUILT_IN, "count", COUNT)


def test_prompts_follow_its_template():
    assert template_file("auto", "count") == template_folder() / "vqa.jinja"
    assert template_file("count", None) == template_folder() / "vqa.jinja"


def command(*words):
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def results(tmp_path):
    """Answers of two models to three questions with the truth 3."""
    answers = {"first": "344", "second": "33x"}
    return [
        str(write_folder(tmp_path / name, [line(key, None, vqa_text(text), "3") for key, text in zip("abc", texts)]))  # noqa: B905
        for name, texts in answers.items()
    ]


def test_result_files_are_scored_and_compared_by_it(results):
    scored = json.loads(command("eval", "score", results[1], "--task", "count", "--json"))
    assert (scored["task"], scored["metric"], scored["unparseable"], scored["frames"]) == (
        "count",
        "closeness",
        1,
        None,
    )
    assert scored["multi"]["mean"] == pytest.approx(2 / 3)
    compared = json.loads(command("eval", "compare", *results, "--task", "count", "--json"))
    multi = next(row for row in compared["rows"] if row["quantity"] == "multi")
    assert compared["metric"] == "closeness"
    assert [value["mean"] for value in multi["values"]] == pytest.approx([2 / 3, 2 / 3])
    table = command("eval", "compare", *results, "--task", "count")
    assert "closeness" in table
    assert "compat" not in table, "it has one scorer"


def test_a_task_that_is_none_is_refused_with_the_names(results):
    result = CliRunner().invoke(app, ["eval", "score", results[0], "--task", "counting"])
    assert isinstance(result.exception, ConfigError)
    wrong = (
        f"--task: no such built-in reward; got 'counting'; want one of {built_in_names()}; with a reward of your own, "
    )
    assert str(result.exception).startswith(wrong)


def test_it_can_be_tried(capfd):
    try_reward("count", "compat", vqa_text("4"), None, {"truth": "3"}, as_json=True)
    record = json.loads(capfd.readouterr().out)
    assert (record["reward"], record["score"], record["accuracy"]) == ("count", 1.0, 0.5)
    assert (record["parts"], record["boxes"]) == ({"format": 0.5, "off": 1.0}, None)
    with pytest.raises(Exception, match="truth: no number; got 'three'"):
        try_reward("count", "strict", vqa_text("4"), None, {"truth": "three"}, as_json=True)


def test_the_reward_of_an_experiment_goes_before_a_guess(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nreward: {function: count}\n")
    (tmp_path / "experiment" / "group.yaml").write_text("# @package _global_\ndefaults: [override /reward: vqa]\n")
    (tmp_path / "experiment" / "other.yaml").write_text("# @package _global_\nrun: {seed: 3}\n")
    folders = [str(tmp_path)]
    assert sets_reward(["experiment=mine"], folders)
    assert sets_reward(["experiment=group", "run.seed=1"], folders)
    assert sets_reward(["reward.function=count"], folders)
    assert not sets_reward(["experiment=other"], folders)
    assert not sets_reward(["run.seed=1"], folders)


WRONG = [
    (RewardResult(math.nan, 1.0, {}), "score is not a finite number; got nan"),
    (RewardResult(1.0, math.nan, {}), "accuracy is not a finite number; got nan"),
    (RewardResult(1.0, 3.0, {}), "accuracy is not in [0, 1]; got 3.0"),
    (RewardResult(2e6, 1.0, {}), "score is not in [-1e+06, 1e+06]; got 2000000.0"),
    (RewardResult(1.0, 1.0, {"off": math.inf}), "off is not a finite number; got inf"),
    (None, "score is not a number; got NoneType None"),
]


@pytest.mark.parametrize(("result", "reason"), WRONG)
def test_a_wrong_result_fails_as_that_of_an_own_function(monkeypatch, capfd, result, reason):
    wrong = replace(COUNT, score=lambda item: result, compat=lambda item: result)
    monkeypatch.setitem(BUILT_IN, "count", wrong)
    item = make_item(vqa_text("3"), "3")
    for scorer in ("strict", "compat"):
        assert load_reward("count", scorer)(item).failed == reason
        assert [one.failed for one in load_list_reward("count", scorer)([item, item])] == [reason] * 2
    assert [one.failed for one in LocalScorer("count", "strict").score([item])] == [reason]
    for as_json in (True, False):
        with pytest.raises(ConfigError, match="count failed on 1 of 1 answers; the first: "):
            try_reward("count", "strict", vqa_text("3"), None, {"truth": "3"}, as_json=as_json)
    first, *_ = capfd.readouterr().out.splitlines()
    assert json.loads(first)["failed"] == reason


@pytest.mark.parametrize(
    "name", [BY_REWARD, OFF, "mine.jinja", "my/rewards.py:count", "", "Count", "two words", "3", "null", "true", "nan"]
)
def test_a_name_with_another_meaning_is_refused(name):
    with pytest.raises(ConfigError, match="not a name for a built-in reward; got "):
        table_of([GROUNDING, replace(COUNT, name=name)])


def test_no_reward_replaces_another_of_the_same_name():
    assert list(table_of([GROUNDING, COUNT])) == ["grounding", "count"]
    with pytest.raises(ConfigError, match="two built-in rewards have the name 'grounding'"):
        table_of([GROUNDING, replace(COUNT, name="grounding")])
