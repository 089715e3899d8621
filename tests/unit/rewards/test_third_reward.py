"""A third built-in reward is one object in the table: everything that depends on which rewards exist then takes it."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from mars.cli.app import app
from mars.cli.check import sets_reward
from mars.config.templates import template_file, template_folder
from mars.errors import ConfigError
from mars.rewards.built_in import BUILT_IN, built_in_names
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
    from mars.cli.reward import try_reward

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
