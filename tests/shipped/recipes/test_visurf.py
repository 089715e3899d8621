"""recipe/visurf: the text of the true answer, what it is worth, and when it joins the responses."""

from __future__ import annotations

from dataclasses import replace
from statistics import stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.hooks.requests import Injected
from mars.hooks.step_hooks import Named
from mars.rewards.local import LocalScorer
from mars.types import RewardResult
from tests.builders import make_prompt, make_rollouts
from tests.fakes.requests import with_requests
from tests.fakes.step import EOS, IMAGE, TableScorer, one_step, parts
from tests.hook_builders import step_facts, step_hooks
from tests.shipped.recipes.recipe_files import ROOT, answer, item, module_of, reward_of

RECIPE = module_of("visurf")
TRUE, THOUGHT = "<answer>4</answer>", answer("4")
TEXTS = {0: answer("5"), 1: "<answer>5</answer>", 2: "none", 3: THOUGHT, 5: TRUE}


def facts(in_pool):
    return step_facts(RECIPE.Settings(in_pool=in_pool))


@pytest.mark.parametrize(
    ("text", "extra", "score"),
    [
        (THOUGHT, None, 1.5), (TRUE, None, 1.25), (answer("5"), None, 0.5), ("4", None, 0.0),
        (THOUGHT, "true_answer", 1.0), (TRUE, "true_answer", 1.0), (answer("5"), "true_answer", 0.0),
    ],
)  # fmt: skip
def test_the_true_answer_earns_nothing_for_its_form(text, extra, score):
    result = reward_of("visurf", "score")(item(text, "4", extra=extra))
    assert result.score == score
    assert sum(result.parts.values()) == score


def test_the_text_is_the_rows_response_or_its_truth():
    prompt = make_prompt("p", [], truth="4")
    assert RECIPE.text_of(prompt) == TRUE
    assert RECIPE.text_of(replace(prompt, response=THOUGHT)) == THOUGHT
    chosen = make_prompt("p", [], truth="B or A", extra_info={"choices": ["red", "blue"]})
    assert RECIPE.text_of(chosen) == "<answer>B</answer>"


@given(st.lists(st.one_of(st.none(), st.floats(0, 2)), min_size=1), st.booleans(), st.sampled_from(["4", "5"]))
def test_it_joins_unless_a_response_reaches_it(scores, in_pool, answered):
    """Failed responses reach nothing; those of anchors are not asked. A text that the reward finds wrong is worth 0."""
    rollouts = make_rollouts("x", scores, visible=[2.0])
    rollouts = replace(rollouts, prompt=replace(rollouts.prompt, truth="4", response=answer(answered)))
    asked = RECIPE.TrueAnswer().after(rollouts, facts(in_pool))
    valid = [s for s in scores if s is not None]
    joins = bool(valid) and max(valid) < {"4": 1, "5": 0}[answered]
    assert list(asked) == ([Injected("true_answer", answer(answered), None, in_pool=in_pool)] if joins else [])
    assert RECIPE.TrueAnswer().before(rollouts.prompt, facts(in_pool)) == ()


class ByExtra(TableScorer):
    """Scores of responses, anchors and the true answer."""

    def __init__(self, scores):
        super().__init__({})
        self.scores = scores

    def _score(self, item):
        found = self.scores["true" if item.extra else "multi" if item.view is None else "anchor"]
        return RewardResult(found, min(found, 1.0), {"part": found})


def step(in_pool, *responses, anchor="none", response=None, score=None):
    """A step whose responses are these numbers of TEXTS: batch of the trainer, rollouts, metrics.

    response: of the row. score: of another reward than the recipe's.
    """
    settings = RECIPE.Settings(in_pool=in_pool)
    hooks = step_hooks(
        requests=Named("visurf:TrueAnswer", RECIPE.TrueAnswer(), settings),
        advantage=(Named("visurf:NeverAgainst", RECIPE.NeverAgainst(), settings),),
    )
    made = with_requests(parts({}, anchor=anchor, samples=len(responses), anchor_samples=1), hooks)
    made.engine._script = lambda request, k: (*[5] * responses[k], EOS)
    extras = replace(made.plan.extras, encode_response=lambda text: (*[5] * 5, EOS))
    scorer = LocalScorer(f"{ROOT / 'recipe' / 'visurf' / 'functions.py'}:score", "strict")
    scorer = scorer if score is None else ByExtra(score)
    made = replace(made, plan=replace(made.plan, extras=extras), scorer=scorer,
                   decode=lambda ids: TEXTS[list(ids).count(5)])  # fmt: skip
    result = one_step(made, [replace(make_prompt("p0", [IMAGE] * 2, truth="4"), response=response)])
    return made.trainer.batches[0].prompts, result.rollouts[0], result.metrics


def test_where_all_are_wrong_the_true_answer_alone_is_trained_on():
    """Three responses without an answer, 0 each: their advantages are 0, that of the text's 1 is sqrt(3 + 1)."""
    ((prompt,), rollouts, metrics) = step(False, 2, 2, 2)
    assert [r.advantage for r in prompt.responses] == [0, 0, 0, pytest.approx(2, rel=1e-5)]
    assert [(r.off_policy, r.bounded) for r in prompt.responses] == [(False, False)] * 3 + [(True, False)]
    assert prompt.responses[3].token_ids == (5, 5, 5, 5, 5, EOS)
    assert rollouts.extras[0].rollouts[0].reward == RewardResult(1.0, 1.0, {"format": 0.0, "accuracy": 1.0})
    assert (metrics["extra/true_answer/accuracy/mean"], metrics["critic/rewards/max"]) == (1.0, 0.0)


def test_in_the_pool_it_pushes_wrong_responses_away():
    """0.5, 0.25 and 0 for the form of wrong answers, and the text's 1: mean 1.75 / 4."""
    ((prompt,), _, metrics) = step(True, 0, 1, 2)
    rewards = [0.5, 0.25, 0, 1]
    std = stdev(rewards)
    assert [r.advantage for r in prompt.responses] == pytest.approx([(r - 1.75 / 4) / std for r in rewards], rel=1e-4)
    assert metrics["critic/rewards/max"] == 1.0


def test_with_a_right_response_nothing_is_added():
    ((prompt,), rollouts, _) = step(False, 0, 2, 3)
    assert (len(prompt.responses), rollouts.extras) == (3, ())


def test_with_anchors_it_stays_out_of_gain_and_lambda():
    """Responses 0.25 and 0, two wrong anchors of 0.25: mean 0.75 / 4, gain 0.125 - 0.25, lambda 2 / 4."""
    ((prompt,), rollouts, metrics) = step(False, 1, 2, anchor="mono")
    assert [len(group.rollouts) for group in rollouts.anchors] == [1, 1]
    pool, mean = [0.25, 0, 0.25, 0.25], 0.75 / 4
    by_hand = [(0.25 - mean) / stdev(pool), (0 - mean) / stdev(pool), (1 - mean) / stdev([*pool, 1])]
    assert [r.advantage for r in prompt.responses] == pytest.approx(by_hand, rel=1e-4)
    assert (metrics["mars/gain/mean"], metrics["mars/lambda"]) == (-0.125, 0.5)


@pytest.mark.parametrize("in_pool", [False, True])
def test_a_text_that_the_reward_does_not_read_is_not_trained_against(in_pool):
    """Without answer tags it is worth 0, as the worst response."""
    ((prompt,), rollouts, _) = step(in_pool, 0, 1, 2, response="<think>2+2</think> So it is 4.")
    assert (len(prompt.responses), rollouts.extras) == (3, ())


@pytest.mark.parametrize("in_pool", [False, True])
@pytest.mark.parametrize(
    ("scores", "trained"),
    [
        ({"multi": 0.0, "anchor": 0.0, "true": 1.0}, True),
        ({"multi": 0.5, "anchor": 0.0, "true": 0.5}, False),  # as another reward may give them
        ({"multi": 0.5, "anchor": 0.0, "true": 0.25}, False),
        ({"multi": 0.0, "anchor": 1.5, "true": 0.5}, False),  # the mean with two anchors is above it
    ],
)
def test_a_true_answer_whose_advantage_is_not_above_0_is_left_out(in_pool, scores, trained):
    ((prompt,), rollouts, _) = step(in_pool, 2, 2, anchor="mono", score=scores)
    assert len(rollouts.extras) == 1
    assert len(prompt.responses) == 2 + trained
    assert all(r.advantage > 0 for r in prompt.responses[2:])
