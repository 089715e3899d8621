"""The evaluations of a run, with both scorers, in its report and in its tables."""

from __future__ import annotations

import json

import pytest

from mars.evaluation.summary import EvalRecord, eval_metrics, summarize
from mars.evaluation.tables import by_scorer, evaluation_rows
from mars.report.run_page import write_report
from mars.rewards.compat_score import CompatScore
from mars.rewards.contract import ACCURACY, MEAN_IOU


def result(highest: float = 1.5) -> dict:
    records = [
        EvalRecord("a", "d", None, 1.0, False, CompatScore(highest, highest, True), metric=MEAN_IOU),
        EvalRecord("b", "d", None, 0.2, False, CompatScore(0.0, 1.0, False), metric=MEAN_IOU),
        EvalRecord(
            "c", "d", None, 1.0, True, CompatScore(1.0, 1.0, True), metric=MEAN_IOU
        ),  # the reward failed: worth nothing in both
    ]
    return summarize(records, name="before", step=0, model="m", threshold=0.5)


def test_both_scorers_side_by_side():
    summary = result()
    assert (summary["multi"]["mean"], summary["compat"]["multi"]["mean"]) == (pytest.approx(0.4), pytest.approx(0.5))
    assert summary["compat"]["multi"]["high"] <= 1.5
    assert (summary["unparseable"], summary["failed"]) == (1, 1)
    strict, compat = by_scorer(summary)
    rows = dict(evaluation_rows([strict, compat]))
    assert rows["Share with IoU > 0.5"][1] == "–", "a matter of IoU alone"
    assert rows["Unparseable answers"] == ["1", "1"]
    assert [part["name"] for part in (strict, compat)] == ["before, strict", "before, compat"]
    metrics = eval_metrics({**summary, "unreadable": {}})
    assert (metrics["eval/compat_multi/mean"], metrics["eval/unparseable"]) == (pytest.approx(0.5), 1)


def test_a_reward_of_ones_own_has_one_scorer():
    records = [EvalRecord("a", "d", None, 0.5, False, metric=ACCURACY)]
    summary = summarize(records, name="n", step=0, model="m", threshold=None)
    assert (summary["compat"], summary["unparseable"]) == (None, None)
    assert by_scorer(summary) == [summary]
    assert "eval/unparseable" not in eval_metrics({**summary, "unreadable": {}})


def test_the_report_has_a_table_for_each_scorer(tmp_path):
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "before.json").write_text(json.dumps(result()))
    (tmp_path / "evaluation" / "odd.json").write_text(json.dumps({**result(), "compat": 5}))
    html = write_report(tmp_path, None, lambda ref: None).read_text()
    assert html.count("compat scorer") == 1
    assert "evaluation/odd.json: left out" in html
