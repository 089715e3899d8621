"""Evaluation with a scripted engine: which answers are asked for, and that each lands in its own cell."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from mars.data.prompts.views import anchor_views
from mars.evaluation.ask import EvaluationParts, evaluate
from mars.evaluation.summary import eval_metrics
from mars.rewards.contract import failed_result
from mars.rewards.functions import RewardsBySet
from mars.rollout.plan import RolloutPlan
from mars.types import RewardResult, Sampling
from tests.builders import make_prompt
from tests.fakes.engine import RecordingEngine
from tests.fakes.step import EOS, IMAGE, encode

# (multi, {source: mono}) accuracies; None: the reward function fails.
TRUTH = {
    "a": (1.0, {"s0": 0.0, "s1": 1.0}),
    "b": (0.0, {"s0": 1.0, "s1": 0.0}),
    "c": (1.0, {}),
    "d": (None, {"s0": 0.0, "s1": None}),
}


class Scorer:
    def __init__(self):
        self.calls = 0

    def score(self, items):
        self.calls += 1
        return [self._score(item) for item in items]

    def _score(self, item):
        multi, mono = TRUTH[item.extra_info["name"]]
        accuracy = multi if item.view is None else mono[item.view[0]]
        # The score is not what evaluation reports.
        return failed_result("raised") if accuracy is None else RewardResult(7.0, accuracy, {"compat": accuracy})

    def close(self):
        pass


OWN = RewardsBySet("own.py:score", {})


def evaluation(samples=1, rewards=OWN):
    sampling = Sampling(1.0, 0.7, 0, 4)
    plan = RolloutPlan(samples, samples, sampling, sampling, partial(anchor_views, anchor_kind="mono"), encode, seed=5)
    return EvaluationParts(
        engine=RecordingEngine(lambda request, k: (3, EOS), [EOS]),
        scorer=Scorer(),
        plan=plan,
        decode=str,
        frames=lambda prompt, view: (None, None),
        prompt_length=lambda request: 10 * len(request.images),
        threshold=0.5,
        rewards=rewards,
        max_bad_fraction=0.5,
    )


@pytest.fixture
def prompts():
    return [
        make_prompt(name, [IMAGE] * max(len(mono), 1), extra_info={"name": name}, data_source=f"set {name in 'ab'}")
        for name, (_, mono) in TRUTH.items()
    ]


@pytest.mark.parametrize("samples", [1, 3])
def test_every_answer_lands_in_its_own_cell(prompts, samples):
    result = evaluate(evaluation(samples), prompts, name="test", step=2, model="m").result
    assert (result["name"], result["step"], result["model"], result["n"]) == ("test", 2, "m", 4)
    assert result["failed"] == 2 * samples
    assert result["multi"]["mean"] == pytest.approx(2 / 4)  # d failed: wrong, and still counted
    assert result["mono"]["s0"]["mean"] == pytest.approx(1 / 3)
    assert result["mono"]["s1"]["mean"] == pytest.approx(1 / 3)
    assert result["union"]["mean"] == pytest.approx(2 / 3)
    assert result["information_gain"]["mean"] == pytest.approx((0.5 - 0.5 + 0) / 3)
    assert result["conflict_rate"]["mean"] == pytest.approx(1 / 3)
    assert result["by_data_source"]["set True"]["n"] == 2
    assert eval_metrics(result)["eval/multi/mean"] == pytest.approx(0.5)
    assert eval_metrics(result)["eval/failed"] == 2 * samples
    # Of the answers to all images: three questions with a score of 7, of which two are right; d failed.
    assert result["reward"] == {"score": 7.0, "parts": {"compat": pytest.approx(2 / 3)}, "n": 3 * samples}
    assert result["cut_off"] == 0


def test_one_call_for_all_views_and_the_same_seeds_at_every_step(prompts):
    parts = evaluation()
    evaluate(parts, prompts, name="before", step=0, model="m")
    first = list(parts.engine.requests)
    evaluate(parts, prompts, name="after", step=60, model="m")
    assert parts.scorer.calls == 2
    assert parts.engine.requests == first * 2
    assert [(r.prompt_id, r.view, len(r.images)) for r in first] == [
        ("a", None, 2), ("a", ("s0",), 1), ("a", ("s1",), 1),
        ("b", None, 2), ("b", ("s0",), 1), ("b", ("s1",), 1),
        ("c", None, 1),
        ("d", None, 2), ("d", ("s0",), 1), ("d", ("s1",), 1),
    ]  # fmt: skip
    # Training steps count from 1: none of them draws what an evaluation draws.
    assert {r.seed for r in parts.plan.requests(prompts, step=1)}.isdisjoint(r.seed for r in first)


def test_nothing_is_trained_and_no_weights_are_loaded(prompts):
    parts = evaluation()
    evaluate(parts, prompts, name="test", step=0, model="m")
    assert parts.engine.updates == []


def test_what_an_answer_is_worth_follows_the_reward_of_its_set(prompts):
    """a and b are boxes; c and d, whose reward failed, are words."""
    prompts = [replace(prompt, truth="[]" if prompt.data_source == "set True" else "yes") for prompt in prompts]
    parts = evaluation(rewards=RewardsBySet("", {"set True": "grounding", "set False": "vqa"}))
    result = evaluate(parts, prompts, name="test", step=0, model="m").result
    boxes, words = (result["by_data_source"][f"set {of_boxes}"] for of_boxes in (True, False))
    assert (result["metric"], boxes["metric"], words["metric"]) == ("accuracy, mean IoU", "mean IoU", "accuracy")
    assert (boxes["share_over_threshold"]["mean"], boxes["share_over_threshold"]["n"]) == (0.5, 2)
    assert words["share_over_threshold"] is None
    assert result["share_over_threshold"]["n"] == 2
    # "3", the answer of all, is no list of boxes and stands in no answer tags.
    assert (boxes["unparseable"], words["unparseable"], result["unparseable"]) == (6, 4, 10)
    assert result["compat"]["multi"]["mean"] == pytest.approx(2 / 4)
    # One reward of a user's own in the run: no compat scorer over everything, but over the others.
    result = evaluate(
        evaluation(rewards=RewardsBySet("", {"set True": "grounding", "set False": "own.py:f"})),
        prompts,
        name="t",
        step=0,
        model="m",
    ).result
    assert (result["compat"], result["unparseable"]) == (None, None)
    assert result["by_data_source"]["set True"]["compat"]["multi"]["mean"] == pytest.approx(1 / 2)
