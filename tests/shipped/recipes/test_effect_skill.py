"""The numbers of the benchmark's skill, by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recipe.effect.skill import answers_folder, labels, summarise, write_questions

ROOT = Path(__file__).parents[3]


def record(number, view, given, light, truth="3"):
    return {
        "number": number,
        "view": view,
        "text": f"<think>visible</think><answer>{given}</answer>",
        "truth": truth,
        "data_source": "benchmark_count",
        "extra_info": {"task": "count", "light": light},
    }


def test_the_numbers_of_three_questions():
    greedy = [
        record(0, None, "3", "day"), record(0, ["visible"], "3", "day"), record(0, ["infrared"], "1", "day"),
        record(1, None, "1", "night"), record(1, ["visible"], "1", "night"), record(1, ["infrared"], "3", "night"),
        record(2, None, "2", "both"), record(2, ["visible"], "4", "both"), record(2, ["infrared"], "x", "both"),
    ]  # fmt: skip
    sampled = [record(1, None, given, "night") for given in ("1", "2", "3")]
    sampled += [record(3, None, given, "night") for given in ("1", "2", "4")]
    sampled += [record(0, None, "1", "day")]  # no question of the night
    third = pytest.approx(1 / 3)
    assert summarise(greedy, sampled) == {
        "multi": third,
        "visible": third,
        "infrared": third,
        "union": pytest.approx(2 / 3),
        "day": 1,
        "night": 0,
        "both": 0,
        "night_all_wrong": 0.5,
    }


def test_policies_in_folders_of_one_name_keep_their_answers_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    questions = tmp_path / "questions_5001_400"
    one, two = Path("A/policy"), Path("B/policy")
    first = answers_folder(tmp_path, one, questions)
    assert first != answers_folder(tmp_path, two, questions)
    assert first == answers_folder(tmp_path, one.absolute(), questions), "a second call finds what is there"
    assert first.parent == tmp_path
    assert first.name.startswith("policy_")
    assert labels([one, two, Path("cold/0.5_1/")]) == ["A/policy", "B/policy", "0.5_1"]


def test_a_failure_is_one_paragraph_without_a_traceback(tmp_path):
    nothing = [str(tmp_path / "nothing"), "--seed=0", "--number=-1", "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "recipe.effect.skill", *nothing], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 3
    assert done.stderr.startswith("number of scenes: negative; got ")
    assert "Traceback" not in done.stderr


def test_questions_of_the_night_are_those_of_the_set(tmp_path):
    from pyarrow import parquet

    write_questions(tmp_path, 0, 30)
    whole = parquet.read_table(tmp_path / "test.parquet").to_pylist()
    night = parquet.read_table(tmp_path / "night.parquet").to_pylist()
    assert len(whole) == 30
    assert night == [row for row in whole if row["extra_info"]["light"] == "night"]
    assert 0 < len(night) < 30
