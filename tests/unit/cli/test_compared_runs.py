"""`mars runs diff` of several runs: settings, last metrics, and evaluations paired by question."""

from __future__ import annotations

import json
from math import sqrt

import pytest

from mars.cli.compared_runs import as_text, compared, to_json
from mars.report.run_comparison import ABSENT, difference_rows, differences, run_names
from tests.unit.cli.run_folders import reward, write_evaluation, write_lines, write_run
from tests.unit.evaluation.result_files import line


def multi(pair, title="All data sources"):
    rows = pair.comparisons[title]["rows"]
    return next(row for row in rows if row["quantity"] == "multi")


def test_paired_differences_by_hand(tmp_path):
    """0 0 1 1 0 and 1 1 1 0 1: differences 1 1 0 -1 1, mean 0.4, standard deviation sqrt(0.8),
    t of 4 degrees of freedom 2.7764."""
    a = write_run(tmp_path / "a", evaluations={3: {None: "00110"}})
    b = write_run(tmp_path / "b", evaluations={3: {None: "11101"}})
    (pair,) = compared([a, b]).pairs
    assert (pair.first, pair.other, pair.step, pair.how) == ("A", "B", 3, "step 3 of both; 5 questions in both")
    assert [value["mean"] for value in multi(pair)["values"]] == pytest.approx([0.4, 0.8])
    difference = multi(pair)["differences"][1]
    assert (difference["mean"], difference["n"]) == (pytest.approx(0.4), 5)
    assert difference["low"] == pytest.approx(0.4 - 2.77645 * sqrt(0.8) / sqrt(5), abs=1e-5)
    assert list(pair.comparisons) == ["All data sources"]


def test_the_intervals_are_those_of_eval_compare(mars, tmp_path):
    views_a = {None: "0110100", "visible": "0010110", "infrared": "1100010"}
    views_b = {None: "1110101", "visible": "0110110", "infrared": "0100011"}
    runs = [write_run(tmp_path / n, evaluations={3: v}) for n, v in (("a", views_a), ("b", views_b))]
    files = [str(run / "evaluation" / "step_000003.jsonl") for run in runs]
    there = json.loads(mars("eval", "compare", *files, "--task", "vqa", "--json").stdout)
    here = json.loads(mars("runs", "diff", *map(str, runs), "--json").stdout)["evaluations"][0]
    rows = [row for row in there["rows"] if row["scorer"] == "strict"]
    assert len(rows) == 6
    assert here["comparisons"]["All data sources"]["rows"] == rows


def test_the_last_step_that_both_have_is_compared(tmp_path):
    right, wrong = {None: "1111"}, {None: "0000"}
    a = write_run(tmp_path / "a", evaluations={0: wrong, 2: wrong, 4: right})
    b = write_run(tmp_path / "b", evaluations={0: wrong, 2: right}, ends=False)
    c = write_run(tmp_path / "c", evaluations={1: right, 3: right})
    d = write_run(tmp_path / "d")
    b_pair, c_pair, d_pair = compared([a, b, c, d]).pairs
    assert (b_pair.step, multi(b_pair)["differences"][1]["mean"]) == (2, 1.0)
    assert b_pair.how == "step 2, the last that both have (A also has step 4); 4 questions in both"
    assert (c_pair.step, c_pair.comparisons) == (None, {})
    assert c_pair.how.startswith("not compared: no step is evaluated in both; A has steps 0, 2, 4 and C has steps 1, 3")
    assert d_pair.how == "not compared: D has no answers of an evaluation (evaluation/step_*.jsonl)"


def test_each_data_source_is_compared_by_itself(tmp_path):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    for run, right in ((a, "0011"), (b, "1110")):
        lines = [
            line(letter, None, "", "yes", step=3, data_source=name, reward=reward(float(mark)))
            for letter, name, mark in zip("abcd", ("one", "one", "two", "two"), right, strict=True)
        ]
        write_lines(run, 3, lines)
    (pair,) = compared([a, b]).pairs
    means = {title: multi(pair, title)["differences"][1]["mean"] for title in pair.comparisons}
    assert means == {"All data sources": 0.25, "one": 1.0, "two": -0.5}


def test_what_cannot_be_paired_is_said(tmp_path):
    a = write_run(tmp_path / "a", evaluations={3: {None: "01"}})
    rewards = write_run(tmp_path / "b", {"reward.function": "own.py:score"}, evaluations={3: {None: "01"}})
    truth = write_run(tmp_path / "c")
    write_evaluation(truth, 3, {None: "01"})
    path = truth / "evaluation" / "step_000003.jsonl"
    path.write_text(path.read_text().replace('"truth": "yes"', '"truth": "maybe"'))
    questions = write_run(tmp_path / "d")
    write_lines(questions, 3, [line("z", None, "", "yes", step=3, reward=reward(1.0))])
    unscored = write_run(tmp_path / "e", evaluations={3: {None: "01"}})
    path = unscored / "evaluation" / "step_000003.jsonl"
    path.write_text(path.read_text().replace('"accuracy": 1.0', '"accuracy": null'))
    silent = write_run(tmp_path / "f", {"reward.function": None}, evaluations={3: {None: "01"}})
    pairs = compared([a, rewards, truth, questions, unscored, silent]).pairs
    assert [pair.comparisons for pair in pairs] == [{}] * 5
    for pair, reason in zip(
        pairs,
        (
            "set: values of different rewards cannot be compared; got vqa in A and own.py:score in B",
            "the truth of question a is 'yes' in one and 'maybe' in the other",
            "no question is in both; ask both models the same questions",
            "has no value in [0, 1]; got the accuracy nan",
            "config.yaml does not say which reward",
        ),
        strict=True,
    ):
        assert pair.how.startswith("not compared at step 3: ")
        assert reason in pair.how


def test_a_function_in_another_folder_is_the_same_reward(tmp_path):
    a = write_run(tmp_path / "a", {"reward.function": "/one/own.py:score"}, evaluations={3: {None: "01"}})
    b = write_run(tmp_path / "b", {"reward.function": "own.py:score"}, evaluations={3: {None: "11"}})
    (pair,) = compared([a, b]).pairs
    assert multi(pair)["differences"][1]["mean"] == 0.5
    assert pair.comparisons["All data sources"]["metric"] == "accuracy"


def test_questions_of_one_run_alone_are_counted(tmp_path):
    a = write_run(tmp_path / "a", evaluations={3: {None: "0101"}})
    b = write_run(tmp_path / "b", evaluations={3: {None: "110"}})
    (pair,) = compared([a, b]).pairs
    assert pair.how == "step 3 of both; 3 questions in both, 1 of A's 4 are left out"
    assert multi(pair)["differences"][1]["n"] == 3


def test_three_runs_on_the_terminal(mars, tmp_path):
    runs = [
        write_run(tmp_path / name, {"run.seed": seed}, steps=steps, evaluations={2: {None: "01"}}, **{"perf/x": seed})
        for name, seed, steps in (("a", 0, 3), ("b", 1, 2), ("红外", 1, 3))
    ]
    lines = [" ".join(text.split()) for text in mars("runs", "diff", *map(str, runs)).stdout.splitlines()]
    assert lines[:3] == [
        f"A a finished 3/3 {runs[0]}", f"B b finished 2/2 {runs[1]}", f"C 红外 finished 3/3 {runs[2]}",
    ]  # fmt: skip
    for part in ("run.seed 0 1 1", "step 3 2 3", "critic/score/mean 0.3 0.2 0.3", "all (accuracy) A C C − A"):
        assert part in lines
    assert lines[lines.index("versions") + 1] == "the same"
    assert not any(text.startswith("perf/") for text in lines)
    found = json.loads(mars("runs", "diff", *map(str, runs), "--json").stdout)
    assert found["settings"]["run.seed"] == {"a": 0, "b": 1, "c": 1}
    assert found["metrics"]["perf/x"] == {"a": 0, "b": 1, "c": 1}
    assert found["runs"]["c"]["name"] == "红外"
    assert [(pair["first"], pair["other"]) for pair in found["evaluations"]] == [("a", "b"), ("a", "c")]


def test_what_is_not_a_number_is_null_and_equal_to_itself(tmp_path):
    a = write_run(tmp_path / "a", steps=1, **{"actor/entropy": float("nan"), "actor/lr": float("inf")})
    b = write_run(tmp_path / "b", steps=1, **{"actor/entropy": float("nan"), "actor/lr": 1.0})
    found = to_json(compared([a, b]))
    assert found["metrics"] == {"actor/lr": {"a": None, "b": 1.0}}
    json.dumps(found, allow_nan=False)


def test_the_runs_are_two_or_more_and_different(mars, tmp_path):
    a = write_run(tmp_path / "a")
    (tmp_path / "link").symlink_to(a)
    for words, message in (
        ([a], "RUN: want two runs or more; got 1; give the run.dir of each"),
        ([a, a], f"RUN: a run is given twice; got {a}; give each run once"),
        ([a, tmp_path / "link"], f"RUN: a run is given twice; got {tmp_path / 'link'}, which is {a}; give each run"),
        ([a, tmp_path], f"RUN: no run is in {tmp_path}; give the run.dir of a run"),
    ):
        done = mars("runs", "diff", *map(str, words))
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr


def test_runs_with_one_name_are_told_apart_by_their_folders(tmp_path):
    assert run_names(["x", "x", "y"], ["/r/mars/1", "/r/none/1", "/r/y"]) == ["mars/1", "none/1", "y"]
    assert run_names(["x", "x"], ["/r/a", "/r/a/b"]) == ["a", "a/b"]
    text = as_text(compared([write_run(tmp_path / n, name="\x1b[2Jsame") for n in ("a", "b")]))
    assert [line.split()[:2] for line in text.splitlines()[:2]] == [["A", "a"], ["B", "b"]]
    assert "\x1b" not in text


def test_values_that_differ_in_late_digits_are_shown_whole():
    found = differences([{"a": 0.1, "b": 1, "c": [1]}, {"a": 0.1000000001, "b": 1}])
    assert difference_rows(found) == [("a", ["0.1", "0.1000000001"]), ("c", ["[1]", "–"])]


def test_null_is_another_value_than_none_at_all():
    assert difference_rows(differences([{"recipe.sampler": None, "seed": 0}, {"seed": None}])) == [
        ("recipe.sampler", ["null", "–"]),
        ("seed", ["0", "null"]),
    ]


def test_of_long_values_the_place_where_they_differ_is_shown():
    files = [f"/data/{'x' * 300}/{name}.parquet" for name in ("one", "other")]
    ((_, cells),) = difference_rows({"data.train_files": [*files, ABSENT]})
    assert cells == [f"… {'x' * 28}/one.parquet", f"… {'x' * 28}/other.parquet", "–"]
    ((_, cells),) = difference_rows({"data.template": ["y" * 130, ABSENT]})
    assert cells == [f"{'y' * 120} …", "–"]


def test_damaged_files_are_left_out_or_named(tmp_path):
    """A whole number that no float holds, half a row, half a result, half an answer, settings that are no mapping."""
    a = write_run(tmp_path / "a", evaluations={2: {None: "0101"}})
    b = write_run(tmp_path / "b", evaluations={2: {None: "0101"}})
    rows = [f'{{"step": 1, "critic/score/mean": {"9" * 400}, "x": "text"}}', "half"]
    (b / "metrics.jsonl").write_text("\n".join(rows))
    (b / "evaluation" / "step_000002.json").write_text("{")
    (b / "evaluation" / "step_000002.jsonl").write_text("{\n")
    c = write_run(tmp_path / "c")
    (c / "config.yaml").write_text("- 1\n")
    found = compared([a, b, c])
    assert [run.score for run in found.runs] == [0.3, None, 0.3]
    assert [note for note in found.runs[1].notes if note.startswith("metrics.jsonl")] == [
        "metrics.jsonl: damaged lines that are left out: 1"
    ]
    assert "step_000002.jsonl: 1 of 1 lines cannot be used" in found.pairs[0].how
    assert "\n" not in found.pairs[0].how
    assert found.settings["run.seed"] == [0, 0, ABSENT]
    text = as_text(found)
    assert "not compared: C has no answers" in text
    assert "\nnotes\n" in text
    assert "\n  B: metrics.jsonl: damaged lines that are left out: 1\n" in text
