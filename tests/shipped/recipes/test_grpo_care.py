"""recipe/grpo_care: the score, who gets the bonus by hand and in general, and a step with a reference's confidence."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.errors import ConfigError
from mars.hooks.load import resolved
from mars.rewards.contract import failed_result
from mars.rewards.local import LocalScorer
from tests.builders import make_prompt
from tests.fakes.step import IMAGE, one_step, parts
from tests.hook_builders import hooks_of_config
from tests.shipped.recipes.recipe_files import ROOT, answer, compose, item, module_of, reward_of

FOLDER = ROOT / "recipe" / "grpo_care"
RECIPE = module_of("grpo_care")
SETTINGS = RECIPE.Settings(weight=0.5, min_accuracy=0.1, max_confidence=0.95, margin=0.01)
NONE = math.nan
score = reward_of("grpo_care", "score")


@pytest.mark.parametrize(
    ("text", "total", "accuracy"),
    [
        (answer("4"), 2, 1),
        (answer("5"), 1, 0),
        ("<answer>4</answer>", 1, 1),
        (answer("5") + " or <answer>4</answer>", 1, 1),
        (answer("4", think=" "), 1, 1),
        ("4", 0, 0),
    ],
)
def test_the_score_by_hand(text, total, accuracy):
    result = score(item(text, "4"))
    assert (result.score, result.accuracy) == (total, accuracy)


def logs(*confidences):
    return [math.log(confidence) for confidence in confidences]


@pytest.mark.parametrize(
    ("accuracies", "logprobs", "margin", "bonus"),
    [
        # Mean confidence of the three right ones: (0.9 + 0.6 + 0.3) / 3 = 0.6. The wrong one's is not in it.
        ([1, 1, 1, 0], logs(0.9, 0.6, 0.3, 0.99), 0.0, [0.5, 0.5, 0, 0]),
        # (0.9 + 0.7 + 0.695) / 3 = 0.765; 0.695 >= 0.765 - 0.07.
        ([1, 1, 1], logs(0.9, 0.7, 0.695), 0.07, [0.5, 0.5, 0.5]),
        ([1, 1, 1], logs(0.9, 0.7, 0.694), 0.07, [0.5, 0.5, 0]),
        # Both count as 0.95.
        ([1, 1], logs(0.999, 0.951), 0.0, [0.5, 0.5]),
        # Mean accuracy 0.4: 0.3 is above 0.1, and below the mean.
        ([0.5, 0.4, 0.3], logs(0.5, 0.5, 0.9), 0.0, [0.25, 0.2, 0]),
        # All of 0.1: none is above 0.1.
        ([0.1, 0.1], logs(0.5, 0.5), 0.0, [0, 0]),
        ([1, 1], [NONE, math.log(0.2)], 0.0, [0, 0.5]),
        ([1], [NONE], 0.0, [0]),
        ([0, 0], logs(0.9, 0.9), 0.0, [0, 0]),
        ([], [], 0.0, []),
    ],
)
def test_the_bonus_by_hand(accuracies, logprobs, margin, bonus):
    assert RECIPE.bonuses(accuracies, logprobs, replace(SETTINGS, margin=margin)) == pytest.approx(bonus)


def slow_bonuses(accuracies, logprobs, settings):
    """With arrays, as the formulas have it."""
    a, c = np.array(accuracies), np.minimum(np.exp(np.array(logprobs)), settings.max_confidence)
    accurate = (a > settings.min_accuracy) & (a >= a.mean() - 1e-9) & ~np.isnan(c)
    if not accurate.any():
        return np.zeros(len(a))
    return np.where(accurate & (c >= c[accurate].mean() - settings.margin - 1e-9), settings.weight * a, 0)


RESPONSES = st.tuples(st.sampled_from([0.0, 0.05, 0.1, 0.5, 1.0]), st.one_of(st.just(NONE), st.floats(-8, 0)))


@given(st.lists(RESPONSES, min_size=1, max_size=8), st.sampled_from([0.0, 0.01, 0.5]))
def test_the_bonus_is_that_of_the_formulas_and_someone_accurate_gets_it(rows, margin):
    accuracies, logprobs = [list(column) for column in zip(*rows, strict=True)]
    settings = replace(SETTINGS, margin=margin)
    found = RECIPE.bonuses(accuracies, logprobs, settings)
    assert found == pytest.approx(slow_bonuses(accuracies, logprobs, settings))
    best = max(accuracies)
    if best > 0.1 and not any(math.isnan(p) for a, p in rows if a == best):
        assert any(found), "the most confident of the accurate is at least at their mean"
    same = RECIPE.bonuses(accuracies, [-0.1 - 0.2] * len(rows), replace(settings, margin=0.0))
    assert [b > 0 for b in same] == [a > 0.1 and a >= np.mean(accuracies) - 1e-9 for a in accuracies]


@pytest.mark.parametrize("experiment", ["grpo_care_tiny", "grpo_care_qwen2_5_vl_7b"])
@pytest.mark.parametrize("anchor", ["none", "mono"])
def test_a_step_asks_the_reference_for_the_answers_of_multi_responses(experiment, anchor):
    """Samples 0 and 1 are right, with means -0.1 and -1; sample 2 is right too and fails; sample 3 is wrong."""
    config = compose(FOLDER, experiment, f"anchor={anchor}")
    config = config.model_copy(update={"recipe": resolved(config.recipe)})
    texts = {0: answer("4"), 1: answer("4"), 2: answer("4"), 3: answer("5")}
    prompt = make_prompt("p0", [IMAGE] * 2, truth="4")
    scorer = FailingScorer(f"{FOLDER / 'functions.py'}:score", "strict")
    made = replace(parts({}, anchor=anchor), scorer=scorer, hooks=hooks_of_config(config))
    # All of the text is that of the last token, 9.
    made = replace(made, decode=lambda ids: texts[list(ids).count(5) - 1] if {5, 9} <= set(ids) else "")
    made.trainer.number = lambda spec, prompt, k, span: (-0.1, -1.0, -2.0)[k] if span != (0, 0) else NONE
    result = one_step(made, [prompt])
    (found,) = result.rollouts
    assert [r.reward.score for r in found.multi.rollouts] == [2.5, 2, 0, 1]
    assert all(r.reward.score == 2 for group in found.anchors for r in group.rollouts)
    assert made.trainer.specs == [RECIPE.CONFIDENCE.spec]
    assert [len(p.responses) for p in made.trainer.scored[0].prompts] == [3]
    assert result.metrics["reward/consistency/mean"] == pytest.approx(0.5 / 3)


class FailingScorer(LocalScorer):
    """The third response to the multi view fails."""

    def score(self, items):
        asked = list(items)
        results = super().score(asked)
        third = [i for i, one in enumerate(asked) if one.view is None][2]
        results[third] = failed_result("raised")
        return results


def test_without_a_reference_it_is_refused():
    config = compose(FOLDER, "grpo_care_tiny", "algorithm.reference_every=null",
                     "algorithm.reference_decay=null")  # fmt: skip
    with pytest.raises(ConfigError, match="'confidence' needs a reference model"):
        hooks_of_config(config.model_copy(update={"recipe": resolved(config.recipe)}))


@pytest.mark.parametrize("changed", [{"min_accuracy": 1.5}, {"max_confidence": 0.0}, {"margin": -0.1}])
def test_settings_that_cannot_work_are_refused(changed):
    with pytest.raises(ValueError, match="max_confidence above 0"):
        replace(SETTINGS, **changed)
