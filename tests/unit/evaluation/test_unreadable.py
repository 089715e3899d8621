"""Questions whose images cannot be read any more: left out, named, counted; never a wrong answer."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest

from mars.errors import DataError
from mars.evaluation.ask import evaluate, infer
from mars.evaluation.files import read_results, result_paths
from mars.evaluation.summary import eval_metrics
from mars.evaluation.unreadable import left_out
from mars.report.scores import score_file
from tests.builders import make_prompt
from tests.fakes.engine import RecordingEngine
from tests.unit.evaluation.test_ask import EOS, make_questions, script
from tests.unit.evaluation.test_evaluate_engine import evaluation, prompts  # noqa: F401 - a fixture

GONE = "b.png: no such image"


def test_an_evaluation_leaves_out_a_prompt_with_all_its_views(prompts, caplog):  # noqa: F811
    parts = evaluation()
    whole = evaluate(parts, prompts, name="test", step=2, model="m")
    parts.engine.unreadable = {(prompts[0].prompt_id, ("s0",)): GONE}
    found = evaluate(parts, prompts, name="test", step=2, model="m")
    assert found.result["unreadable"] == {prompts[0].prompt_id: f"{prompts[0].row}: {GONE}"}
    assert found.answers == [a for a in whole.answers if a.prompt_id != prompts[0].prompt_id]
    without = evaluate(evaluation(), prompts[1:], name="test", step=2, model="m").result
    assert {key: found.result[key] for key in without if key != "unreadable"} == {
        key: value for key, value in without.items() if key != "unreadable"
    }
    assert (eval_metrics(whole.result)["eval/unreadable"], eval_metrics(found.result)["eval/unreadable"]) == (0, 1)
    assert f"{prompts[0].row}: {GONE}; the question is left out" in caplog.text


@pytest.mark.parametrize(
    ("bad", "fraction", "ends"),
    [
        (1, 0.05, False),
        (2, 0.05, True),
        (2, 0.5, False),
        (3, 0.5, True),
        (4, 1.0, True),
        (1, 0.0, True),
        (0, 0.0, False),
    ],
)
def test_too_many_end_the_evaluation(bad, fraction, ends):
    questions = [make_prompt(f"p{i}") for i in range(4)]
    reasons = {f"p{i}": f"{i}.png: gone" for i in range(bad)}
    if not ends:
        assert left_out(questions, reasons, fraction) == {
            f"p{i}": f"rows.jsonl:p{i}: {i}.png: gone" for i in range(bad)
        }
        return
    with pytest.raises(DataError, match=rf"{bad} of 4 questions cannot be read.*rows\.jsonl:p{bad - 1}: ") as raised:
        left_out(questions, reasons, fraction)
    assert raised.value.exit_code == 3


class Asking:
    """`infer` with an engine that cannot read some views."""

    def __init__(self, folder):
        self.paths, self.questions = result_paths(folder), make_questions()

    def __call__(self, unreadable, views="all"):
        @contextmanager
        def start():
            engine = RecordingEngine(script, [EOS])
            engine.unreadable = unreadable
            yield engine
            self.asked = {(request.prompt_id, request.view) for request in engine.requests}

        return infer(self.questions, self.paths, views, start)

    def answered(self):
        return {answer.prompt_id for answer in read_results(self.paths.folder).answers}

    def manifest(self):
        return json.loads(self.paths.manifest.read_text())


@pytest.fixture
def ask(tmp_path):
    return Asking(tmp_path / "out")


def test_a_question_is_left_out_named_and_asked_again_by_the_next_call(ask, tmp_path):
    ask({("b", ("infrared",)): GONE})
    assert ask.answered() == {"a", "c"}
    assert ask.manifest()["unreadable"] == {"b": f"rows.jsonl:b: {GONE}"}
    result = score_file(tmp_path / "out", "vqa", 0.5, None)[1]
    assert (result["n"], result["unreadable"]) == (2, {"b": f"rows.jsonl:b: {GONE}"})
    ask({})
    assert ask.asked == {("b", None), ("b", ("visible",)), ("b", ("infrared",))}
    assert ask.answered() == {"a", "b", "c"}
    assert ask.manifest()["unreadable"] == {}


@pytest.mark.parametrize("order", [("multi", "mono"), ("mono", "multi")])
def test_a_question_that_is_lost_between_two_calls_loses_its_other_views_too(ask, order):
    ask({}, order[0])
    ask({("b", None): GONE, ("b", ("visible",)): GONE}, order[1])
    assert ask.answered() == {"a", "c"}
    assert ask.manifest()["asked"] == {"multi": 2, "visible": 1, "infrared": 1}


def test_what_an_earlier_call_left_out_stays_named(ask):
    """The only view of c is the multi one, so a call for mono views does not ask it."""
    ask({("c", None): GONE}, "multi")
    ask({}, "mono")
    assert (ask.answered(), list(ask.manifest()["unreadable"])) == ({"a", "b"}, ["c"])


def test_after_too_many_the_answers_stay_and_scoring_says_that_some_are_missing(ask):
    with pytest.raises(DataError, match=r"2 of 3 questions .*max_bad_fraction=0\.5 allows 1"):
        ask({("b", None): GONE, ("c", None): GONE})
    with pytest.raises(DataError, match="answers are missing"):
        ask.answered()
    ask({})
    assert ask.answered() == {"a", "b", "c"}
    assert ("a", None) not in ask.asked
