"""`mars eval run` and `infer` with --like: the settings of a run, for a policy of it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from typer.testing import CliRunner

from mars.cli.app import app
from mars.config.load import load_config
from mars.errors import ConfigError
from mars.evaluation.summary import EvalRecord, summarize
from mars.run_dir.attempt import start_attempt

SETTINGS = ["data.train_files=[rows.parquet]", "cluster.device=cpu", "model.dtype=float32", "model.path=base"]
SETTINGS += ["data.max_image_pixels=12544", "data.template=own.jinja", "reward.function=own.py:score"]


@pytest.fixture
def run_dir(tmp_path, monkeypatch) -> Path:
    """A run that was started in tmp_path/home. The working directory is tmp_path/here."""
    monkeypatch.setattr("mars.run_dir.attempt.machine", dict)
    for name in ("home", "here"):
        (tmp_path / name).mkdir()
    folder = tmp_path / "home" / "runs" / "one"
    folder.mkdir(parents=True)
    save(folder, "train", *SETTINGS)
    monkeypatch.chdir(tmp_path / "home")
    start_attempt(folder, (), {}, resumes=False)
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "policy").mkdir()
    (tmp_path / "here" / "rows.jsonl").write_text("")
    return folder


def save(folder: Path, root, *settings: str) -> None:
    config = load_config(root, settings, [])
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump()))


@pytest.fixture
def asked(monkeypatch):
    """The arguments with which `mars.run` was called, instead of asking a model."""
    calls: list[tuple] = []

    def run_evaluation(*arguments):
        calls.append(arguments)
        records = [EvalRecord("p", "llvip", None, 1.0, False, metric="accuracy")]
        result = summarize(records, name="eval", step=0, model="m", threshold=None)
        return result | {"reward": None, "cut_off": None}

    def run_inference(*arguments):
        calls.append(arguments)
        return []

    stand_in = SimpleNamespace(run_evaluation=run_evaluation, run_inference=run_inference)
    monkeypatch.setitem(sys.modules, "mars.run", stand_in)
    return calls


def call(*arguments: object):
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


def test_a_policy_is_evaluated_with_the_settings_of_its_run(run_dir, asked, tmp_path):
    words = ["--like", "../home/runs/one", "evaluation.max_samples=3", "--out", "result.json"]
    done = call("run", "policy", "rows.jsonl", *words)
    assert done.exit_code == 0, done.output
    ((config, *_, out),) = asked
    here, (files,) = tmp_path / "here", config.data.eval_files
    assert (config.model.path, files, out) == (str(here / "policy"), str(here / "rows.jsonl"), here / "result.json")
    assert (config.data.max_image_pixels, config.model.dtype, config.cluster.device) == (12544, "float32", "cpu")
    assert (config.data.template, config.reward.function) == ("own.jinja", "own.py:score")
    assert Path.cwd() == tmp_path / "home", "where own.jinja and own.py are"
    assert (config.evaluation.max_samples, config.run.dir) == (3, str(run_dir))


@pytest.mark.parametrize(("task", "reward"), [([], "own.py:score"), (["--task", "vqa"], "vqa")])
def test_questions_are_asked_with_the_settings_of_a_run(run_dir, asked, tmp_path, task, reward):
    done = call("infer", "policy", "rows.jsonl", "out", "--like", run_dir, *task)
    assert done.exit_code == 0, done.output
    ((config, questions, paths, _),) = asked
    here = tmp_path / "here"
    assert (config.data.max_image_pixels, config.reward.function) == (12544, reward)
    assert (questions, paths.answers) == (str(here / "rows.jsonl"), here / "out" / "answers.jsonl")
    assert config.run.dir == str(here / "out" / "run"), "nothing is written to the run"


def test_a_model_of_the_hub_keeps_its_name(run_dir, asked):
    assert call("run", "Qwen/Qwen2.5-VL-3B-Instruct", "rows.jsonl", "--like", run_dir).exit_code == 0
    assert asked[0][0].model.path == "Qwen/Qwen2.5-VL-3B-Instruct"


def test_an_evaluation_does_not_need_the_metric_of_the_best_checkpoint(run_dir, asked):
    """The run had held-out files, and kept the checkpoint that was best on them."""
    save(run_dir, "train", *SETTINGS, "data.eval_files=[held_out.parquet]", "checkpoint.keep_best=eval/multi/mean")
    done = call("run", "policy", "rows.jsonl", "--like", run_dir, "evaluation.every=0")
    assert done.exit_code == 0, done.output
    assert asked[0][0].checkpoint.keep_best is None


def test_what_is_no_run_of_reinforcement_learning_is_refused(run_dir, asked, tmp_path):
    refused = {"here": "has no config.yaml", "cold": "is a cold start", "home/runs/one": "--config-dir"}
    (tmp_path / "cold").mkdir()
    save(tmp_path / "cold", "sft", "data.train_files=[rows.parquet]")
    for folder, reason in refused.items():
        more = ["--config-dir", "configs"] if reason == "--config-dir" else []
        error = call("run", "policy", "rows.jsonl", "--like", tmp_path / folder, *more).exception
        assert isinstance(error, ConfigError)
        assert reason in str(error)
    assert asked == []
