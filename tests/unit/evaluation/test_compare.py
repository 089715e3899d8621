"""`mars eval compare`: paired differences by hand, and what may not be compared."""

from __future__ import annotations

import re
from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from mars.cli.app import app
from mars.errors import DataError
from mars.evaluation.compare import compare, comparison_table, legend
from mars.evaluation.files import read_results
from mars.evaluation.score import score_results
from tests.examples import examples
from tests.unit.evaluation.result_files import boxes_text, line, vqa_text, write_folder, write_public


def compared(paths, task="vqa", threshold=0.5):
    return compare([score_results(read_results(path), task, None) for path in paths], threshold)


def row(comparison, quantity, scorer="strict"):
    return next(r for r in comparison["rows"] if (r["quantity"], r["scorer"]) == (quantity, scorer))


def answers(right: str, views=(None,)) -> list[dict]:
    """Questions a, b, c, ...; "1" answers right."""
    return [
        line(chr(97 + number), view, vqa_text("yes" if mark == "1" else "no"), "yes")
        for number, mark in enumerate(right)
        for view in views
    ]


def test_differences_by_hand(tmp_path):
    """0 0 1 1 0 and 1 1 1 0 1: differences 1 1 0 -1 1, mean 0.4, standard deviation sqrt(0.8),
    t of 4 degrees of freedom 2.7764."""
    first, other = write_folder(tmp_path / "a", answers("00110")), write_folder(tmp_path / "b", answers("11101"))
    result = compared([first, other])
    multi = row(result, "multi")
    assert [value["mean"] for value in multi["values"]] == pytest.approx([0.4, 0.8])
    half = 2.77645 * sqrt(0.8) / sqrt(5)
    none, difference = multi["differences"]
    assert none is None
    assert (difference["mean"], difference["n"]) == (pytest.approx(0.4), 5)
    assert (difference["low"], difference["high"]) == (pytest.approx(0.4 - half, abs=1e-5), 1.0)  # cut at 1
    assert row(result, "multi", "compat")["differences"][1] == difference
    assert [file["name"] for file in result["files"]] == ["a", "b"]
    assert "Student" in result["method"]


def test_pairing_makes_a_small_steady_difference_certain(tmp_path):
    """Questions of very different difficulty; the second model is 0.05 to 0.15 better on each of them."""
    truth = "[[0, 0, 100, 10]]"
    reach = [5, 20, 40, 60, 80]
    gains = [5, 15, 10, 10, 5]
    lines = lambda widths: [  # noqa: E731 - two files of one kind
        line(chr(97 + number), None, boxes_text([[0, 0, width, 10]]), truth) for number, width in enumerate(widths)
    ]
    first = write_folder(tmp_path / "a", lines(reach))
    other = write_folder(tmp_path / "b", lines([width + gain for width, gain in zip(reach, gains, strict=True)]))
    multi = row(compared([first, other], "grounding"), "multi")
    assert multi["differences"][1]["mean"] == pytest.approx(0.09)
    assert multi["differences"][1]["low"] > 0
    assert multi["values"][1]["low"] < multi["values"][0]["mean"], "unpaired, nothing could be said"


@examples(40)
@given(st.lists(st.tuples(st.integers(1, 99), st.integers(1, 99)), min_size=3, max_size=12))
def test_against_a_reference_of_the_paired_t_interval(tmp_path_factory, widths):
    folder = tmp_path_factory.mktemp("pairs")
    for name, place in (("a", 0), ("b", 1)):
        lines = [
            line(chr(97 + number), None, boxes_text([[0, 0, pair[place], 10]]), "[[0, 0, 100, 10]]")
            for number, pair in enumerate(widths)
        ]
        write_folder(folder / name, lines)
    result = compared([folder / "a", folder / "b"], "grounding")
    difference = row(result, "multi")["differences"][1]
    backwards = row(compared([folder / "b", folder / "a"], "grounding"), "multi")["differences"][1]
    left, right = (np.array([pair[place] / 100 for pair in widths]) for place in (0, 1))
    assert difference["mean"] == pytest.approx((right - left).mean())
    assert (backwards["low"], backwards["high"]) == (
        pytest.approx(-difference["high"]),
        pytest.approx(-difference["low"]),
    )
    if len(set(np.round(right - left, 9))) > 1:
        from scipy.stats import ttest_rel  # takes 0.7 s, which the collection of every process would pay

        reference = ttest_rel(right, left).confidence_interval()
        assert difference["low"] == pytest.approx(max(reference.low, -1))
        assert difference["high"] == pytest.approx(min(reference.high, 1))


def test_only_common_questions_are_compared_and_the_others_counted(tmp_path):
    first, other = write_folder(tmp_path / "a", answers("1100")), write_folder(tmp_path / "b", answers("10"))
    result = compared([first, other])
    assert (result["n"], [file["left_out"] for file in result["files"]]) == (2, [2, 0])
    assert [value["mean"] for value in row(result, "multi")["values"]] == [1.0, 0.5]


def test_a_quantity_that_one_file_lacks_is_left_empty(tmp_path):
    first = write_folder(tmp_path / "a", answers("10"))
    other = write_folder(tmp_path / "b", answers("11", (None, "visible", "infrared")))
    result = compared([first, other])
    gain = row(result, "information_gain")
    assert (gain["values"][0], gain["differences"][1]) == (None, None)
    assert gain["values"][1]["mean"] == 0
    assert row(result, "mono/visible")["values"][1]["mean"] == 1
    console = Console(width=200, record=True)
    console.print(comparison_table(result, 0.5))
    text = console.export_text()
    assert "B − A" in text
    assert "Mono visible" in text
    assert "compat" not in text, "for VQA it is the strict one"


def test_three_public_files(tmp_path):
    files = []
    for name, marks in (("a", "100"), ("b", "110"), ("c", "111")):
        entries = [(vqa_text("yes" if mark == "1" else "no"), "yes") for mark in marks]
        files.append(write_public(tmp_path / f"{name}.json", entries))
    result = compared(files)
    multi = row(result, "multi")
    assert [value["mean"] for value in multi["values"]] == pytest.approx([1 / 3, 2 / 3, 1])
    assert [value and value["mean"] for value in multi["differences"]] == [
        None,
        pytest.approx(1 / 3),
        pytest.approx(2 / 3),
    ]


def test_different_questions_are_refused_with_the_reason(tmp_path):
    first = write_folder(tmp_path / "a", answers("10"))
    with pytest.raises(DataError, match="answer different questions: no question is in both"):
        compared([first, write_folder(tmp_path / "b", [line("x", None, vqa_text("yes"), "yes")])])
    with pytest.raises(DataError, match="the truth of question a is 'yes' in one and 'no' in the other"):
        compared([first, write_folder(tmp_path / "c", [line("a", None, vqa_text("yes"), "no")])])
    public = write_public(tmp_path / "p.json", [(vqa_text("yes"), "yes")] * 2)
    with pytest.raises(DataError, match="one is in the public format"):
        compared([first, public])
    longer = write_public(tmp_path / "q.json", [(vqa_text("yes"), "yes")] * 3)
    with pytest.raises(DataError, match="they have 2 and 3"):
        compared([public, longer])
    others = write_public(tmp_path / "r.json", [(vqa_text("yes"), "no")] * 2)
    with pytest.raises(DataError, match="truth of question 0"):
        compared([public, others])


def test_files_of_the_same_name_are_told_apart_and_hostile_names_escaped(tmp_path):
    paths = [write_folder(tmp_path / run / "out[red]\x1b[2J", answers("1")) for run in ("one", "two")]
    result = compared(paths)
    assert [file["name"] for file in result["files"]] == list(map(str, paths))
    console = Console(width=400, record=True, force_terminal=True)
    console.print(comparison_table(result, 0.5))
    assert "\x1b[2J" not in console.export_text(styles=True)
    first, second, _ = legend(result)
    assert first == f"A: {tmp_path}/one/out[red]\\x1b[2J, model m, 1 questions, 0 of them left out"
    assert second.startswith(f"B: {tmp_path}/two/out")


def test_the_table_of_many_files_keeps_every_number(tmp_path, monkeypatch):
    """On 80 columns, with long names, and more files than letters."""
    paths = [write_folder(tmp_path / f"a_checkpoint_of_a_long_name_{n}", answers("1010110")) for n in range(28)]
    monkeypatch.setenv("COLUMNS", "80")
    done = CliRunner().invoke(app, ["eval", "compare", *map(str, paths), "--task", "vqa"])
    assert done.exit_code == 0, done.output
    assert "…" not in done.stdout
    (multi,) = [text for text in done.stdout.splitlines() if text.startswith("│ Multi")]
    assert multi.count("57.1 [25.0, 84.2]") == 28
    assert multi.count("+0.0 [-35.4, +35.4]") == 27
    assert "│ 28 − A │" in re.sub(" +", " ", done.stdout).replace("┃", "│")
    assert f"28: {paths[-1].name}, model m, 7 questions, 0 of them left out" in done.stdout


def test_the_questions_that_a_file_lacks_are_counted_in_the_output(tmp_path):
    files = [write_folder(tmp_path / "a", answers("110")), write_folder(tmp_path / "b", answers("10"))]
    done = CliRunner().invoke(app, ["eval", "compare", *map(str, files), "--task", "vqa"])
    assert "A: a, model m, 3 questions, 1 of them left out" in done.stdout
    assert "B: b, model m, 2 questions, 0 of them left out" in done.stdout
