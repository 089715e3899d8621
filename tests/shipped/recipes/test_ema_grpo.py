"""recipe/ema_grpo: the moving deviation of a task, the guard, the state, and the rewards of the tasks."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mars.algorithms.guided_groups import with_candidates, with_guests
from mars.errors import ConfigError, DataError
from mars.hooks.step_hooks import Named
from mars.plugin import load, resolve
from mars.rewards.text_metrics import edit_distance
from tests.builders import make_prompt, make_rollouts, with_extra
from tests.fakes.step import GRPO, one_step, parts
from tests.hook_builders import step_facts, step_hooks
from tests.shipped.recipes.recipe_files import ROOT, answer, item, module_of
from tests.shipped.recipes.rule_files import advantages_of, prompts_with

RECIPE = module_of("ema_grpo")
REWARDS = load("test", resolve("test", f"{ROOT / 'recipe' / 'ema_grpo' / 'rewards.py'}:score", ""), "anything").module
PAPER = RECIPE.Settings(decay=0.99, min_std=0.001, guard=5.0, task="problem_type")
CENTRED = replace(GRPO, normalize_std=False)


def facts(**changes):
    return step_facts(replace(PAPER, **changes))


def of_task(prompt_id, task, scores, **anchors):
    prompt = make_prompt(prompt_id, extra_info={"problem_type": task})
    return make_rollouts(prompt, scores, **anchors)


def ruled(rule, kept, **changes):
    return rule(advantages_of(kept, CENTRED), kept, facts(**changes)).values.tolist()


def test_two_steps_by_hand():
    """Decay 0.75. First: mean 0.5, mean square 0.5, deviation sqrt(0.25). Second: scores 1 and 0.5, of mean 0.75 and
    mean square 0.625: 0.75 * 0.5 + 0.25 * 0.75 = 0.5625, and 0.75 * 0.5 + 0.25 * 0.625 = 0.53125."""
    rule = RECIPE.TaskDeviation()
    first = ruled(rule, [of_task("a", "x", [1.0, 0.0]), of_task("b", "x", [0.0, 1.0])], decay=0.75)
    assert first == pytest.approx([0.5 / 0.500001, -0.5 / 0.500001, -0.5 / 0.500001, 0.5 / 0.500001])
    assert rule.moments == {"x": (0.5, 0.5)}
    second = ruled(rule, [of_task("a", "x", [1.0, 0.5])], decay=0.75)
    assert rule.moments == {"x": (0.5625, 0.53125)}
    std = (0.53125 - 0.5625**2) ** 0.5
    assert second == pytest.approx([0.25 / (std + 1e-6), -0.25 / (std + 1e-6)])


def test_guests_of_the_anchors_have_advantages_and_do_not_move_the_moments():
    """Scores 0 and 0.5, a guest of 1: moments of the two alone, mean 0.25 and mean square 0.125, deviation 0.25."""
    rule, given = RECIPE.TaskDeviation(), with_candidates([of_task("a", "x", [0.0, 0.5], s0=[1.0, 0.0])])
    kept = with_guests(given, lambda item, group, rollout: True).rollouts
    found = ruled(rule, kept)
    assert rule.moments == {"x": (0.25, 0.125)}
    assert found == pytest.approx([x / 0.250001 for x in (-0.5, 0.0, 0.5)])


def test_tasks_have_moments_of_their_own():
    """Without the rule the box task's advantages are a tenth of the others."""
    rule = RECIPE.TaskDeviation()
    found = ruled(rule, [of_task("a", "box", [0.6, 0.5]), of_task("b", "choice", [1.0, 0.0])])
    assert found == pytest.approx([0.05 / 0.050001, -0.05 / 0.050001, 0.5 / 0.500001, -0.5 / 0.500001])
    assert rule.moments["box"] == (pytest.approx(0.55), pytest.approx((0.36 + 0.25) / 2))


def test_a_deviation_has_a_floor():
    """Scores 0.5 and 0.5004 deviate by 0.0002 from their mean."""
    kept = [of_task("a", "x", [0.5, 0.5004])]
    assert ruled(RECIPE.TaskDeviation(), kept) == pytest.approx([-0.0002 / 0.001001, 0.0002 / 0.001001])
    assert ruled(RECIPE.TaskDeviation(), kept, min_std=0.1) == pytest.approx([-0.0002 / 0.100001, 0.0002 / 0.100001])


def test_a_prompt_beyond_the_guard_is_divided_by_the_deviation_of_its_own_pool():
    """Deviation of the task: scores -0.5 and 0.5 seven times each, and 12, 0: mean 0.75, mean square 9.21875. The last
    prompt has 6 / sqrt(8.66) = 2.04. Its pool has the deviation 6 with N."""
    others = [of_task(f"p{i}", "x", [-0.5, 0.5]) for i in range(7)]
    last = of_task("q", "x", [12.0, 0.0])
    kept = [*others, last]
    std = ((14 * 0.25 + 144) / 16 - (12 / 16) ** 2) ** 0.5
    loose, tight = (ruled(RECIPE.TaskDeviation(), kept, guard=guard) for guard in (2.1, 2.0))
    assert loose[-2:] == pytest.approx([6 / (std + 1e-6), -6 / (std + 1e-6)])
    assert tight[-2:] == pytest.approx([6 / 6.000001, -6 / 6.000001])
    assert tight[:-2] == loose[:-2]


def test_anchors_are_in_the_mean_and_in_the_pool_of_the_guard_but_not_in_the_moments():
    """Pool 1, 0, 0, 0: mean 0.25, deviation with N sqrt(0.1875). Moments of 1 and 0."""
    prompt = make_prompt("a", (), extra_info={"problem_type": "x"})
    one = make_rollouts(prompt, [1.0, 0.0], s0=[0.0, 0.0])
    rule = RECIPE.TaskDeviation()
    assert ruled(rule, [one]) == pytest.approx([0.75 / 0.500001, -0.25 / 0.500001])
    assert rule.moments == {"x": (0.5, 0.5)}
    pool = 0.1875**0.5 + 1e-6
    assert ruled(RECIPE.TaskDeviation(), [one], guard=1.4) == pytest.approx([0.75 / pool, -0.25 / pool])


def test_a_prompt_without_differences_stays_0_and_its_scores_count():
    rule = RECIPE.TaskDeviation()
    kept = [of_task("a", "x", [1.0, 1.0]), with_extra(of_task("b", "y", [0.0]), "guest", "guest", [1.0])]
    assert ruled(rule, kept) == pytest.approx([0, 0, -0.5 / 0.500001, 0.5 / 0.500001])
    assert rule.moments == {"x": (1, 1), "y": (0.5, 0.5)}
    base = advantages_of(kept, CENTRED).without(torch.tensor([False, False, True, False]))
    found = RECIPE.TaskDeviation()(base, kept, facts())
    assert found.values.tolist() == pytest.approx([0, 0, 0, 0.5 / 0.500001])
    assert found.weights.tolist() == [1, 1, 0, 1]


def test_what_another_rule_has_divided_is_refused():
    kept = [of_task("a", "x", [1.0, 0.5, 0.0])]
    for settings in (GRPO, replace(CENTRED, estimator="leave_one_out")):
        with pytest.raises(ConfigError, match=r"^recipe\.advantage: .*; name it first$"):
            RECIPE.TaskDeviation()(advantages_of(kept, settings), kept, facts())


def test_the_task_is_a_field_or_the_data_source():
    prompt = make_prompt("a", data_source="llvip", extra_info={"problem_type": "ocr"})
    assert [RECIPE.task_of(prompt, field) for field in ("problem_type", None)] == ["ocr", "llvip"]
    with pytest.raises(DataError, match=r"rows.jsonl:a: extra_info\.kind: got None"):
        RECIPE.task_of(prompt, "kind")


@pytest.mark.parametrize("changes", [{"decay": 1.0}, {"decay": -0.1}, {"min_std": 0.0}, {"guard": 0.0}])
def test_settings_that_cannot_work_are_refused(changes):
    with pytest.raises(ValueError, match="want 0 <= decay"):
        replace(PAPER, **changes)


scores_of = st.lists(st.integers(-4, 4).map(lambda quarters: quarters / 4), min_size=2, max_size=4)
steps_of = st.lists(
    st.lists(st.tuples(st.sampled_from(["x", "y", "z"]), scores_of), min_size=1, max_size=4), min_size=1, max_size=5
)


def kept_of(step):
    return [of_task(f"p{i}", task, scores) for i, (task, scores) in enumerate(step)]


@given(steps_of, st.floats(0.1, 0.99))
def test_the_rule_agrees_with_a_slow_reference(steps, decay):
    rule, moments = RECIPE.TaskDeviation(), {}
    for step in steps:
        for task in {task for task, _ in step}:
            found = np.concatenate([scores for other, scores in step if other == task])
            new = np.array([found.mean(), (found**2).mean()])
            moments[task] = decay * moments[task] + (1 - decay) * new if task in moments else new
        wanted = []
        for task, scores in step:
            m1, m2 = moments[task]
            centred = np.array(scores) - np.mean(scores)
            if np.ptp(scores) == 0:
                centred[:] = 0
            values = centred / (max(np.sqrt(max(m2 - m1 * m1, 0)), 0.001) + 1e-6)
            wanted += list(centred / (np.std(scores) + 1e-6) if abs(values).max() > 5 else values)
        assert ruled(rule, kept_of(step), decay=decay) == pytest.approx(wanted, rel=1e-6, abs=1e-9)


@given(steps_of, steps_of)
def test_a_resumed_rule_goes_on_as_if_it_had_not_stopped(before, after):
    """Also over what another run left in the new object, and with tasks in the state that do not come back."""
    rule, resumed = RECIPE.TaskDeviation(), RECIPE.TaskDeviation()
    for step in before:
        ruled(rule, kept_of(step))
    ruled(resumed, kept_of(after[0]))
    resumed.restore(json.loads(json.dumps(rule.state())))
    for step in after:
        assert ruled(resumed, kept_of(step)) == ruled(rule, kept_of(step))
    assert resumed.state() == rule.state()


def test_steps_hand_the_state_on_and_a_resumed_run_begins_there():
    """The second step of one run is that of a run that restores the snapshot of the first."""
    prompts, table = prompts_with({"p0": [0, 1, 0, 1], "p1": [0, 0.5, 1, 0.25]})

    def made():
        hooks = step_hooks(
            advantage=(Named("ema_grpo:TaskDeviation", RECIPE.TaskDeviation(), replace(PAPER, task=None)),)
        )
        return replace(parts(table, anchor="none"), hooks=hooks, advantage=CENTRED)

    first, second = made(), made()
    done = one_step(first, prompts)
    assert json.loads(done.state.hooks)["advantage"]["ema_grpo:TaskDeviation"]["moments"]["test"] == pytest.approx(
        [(2 + 1.75) / 8, (2 + 0.25 + 1 + 0.0625) / 8]
    )
    second.hooks.restore(done.state.hooks)
    for each in (first, second):
        one_step(each, prompts[1:], step=2)
    last = [[r.advantage for p in m.trainer.batches[-1].prompts for r in p.responses] for m in (first, second)]
    assert last[0] == last[1]
    alone = made()
    one_step(alone, prompts[1:], step=2)
    assert [r.advantage for r in alone.trainer.batches[-1].prompts[0].responses] != last[0]


# --- rewards


def scored(text, truth, task, **changes):
    return REWARDS.score(item(answer(text), truth, {"problem_type": task, **changes.pop("extra", {})}, **changes))


@pytest.mark.parametrize(
    ("task", "truth", "text", "accuracy"),
    [
        ("numerical", "3.14159", "3.141", 1),
        ("numerical", "3.14159", "3.15", 0),
        ("numerical", "1,250", "1250.0", 1),
        ("numerical", "3", "three", 0),
        ("numerical", "3", "nan", 0),
        ("regression", "100", "100", 1),
        ("regression", "100", "79", 0.6),  # 0.21 is below 0.5, 0.45, 0.4, 0.35, 0.3 and 0.25
        ("regression", "-100", "-97", 1.0),  # 0.03 is below 0.05 too
        ("regression", "100", "40", 0),
        ("regression", "100", "many", 0),
        ("ocr", "no parking here", "no parking there", 2 / 3),
        ("ocr", "no parking here", "no parking", 2 / 3),
        ("ocr", "stop", "do not stop here", 0),  # three words too many of one
        ("ocr", "stop", "", 0),
        # Words 4/5 (2 * 2 / (3 + 2)), pairs 2/3 (2 * 1 / (2 + 1)), longest common sequence 4/5
        ("open-ended", "The red car.", "red car", (0.8 + 2 / 3 + 0.8) / 3),
        ("open-ended", "The red car.", "", 0),
        ("temporal grounding", '{"time": [2, 6]}', '{"time": [4, 10]}', 2 / 8),
        ("temporal grounding", '{"time": [2, 6]}', '{"time": [7, 9]}', 0),
        ("temporal grounding", '{"time": [2, 6]}', '{"time": [6, 2]}', 0),
        ("temporal grounding", '{"time": [2, 2]}', '{"time": [2, 2]}', 0),
        ("multiple choice", "A", "B", 0),
        ("multiple choice", "A", "A", 1),
        ("math", "1/2", "1/2", 1),
        ("spatial grounding", '{"boxes": [0, 0, 10, 10]}', '{"boxes": [0, 0, 10, 5]}', 0.5),
        ("spatial grounding", '{"boxes": [0, 0, 10, 10]}', '{"boxes": [20, 0, 30, 5]}', 0),
    ],
)
def test_accuracies_by_hand(task, truth, text, accuracy):
    result = scored(text, truth, task)
    assert result.accuracy == pytest.approx(accuracy)
    assert result.score == pytest.approx(0.9 * accuracy + 0.1 + 0.5)


@pytest.mark.parametrize(
    "text", ["[0, 0, 10, 10]", '{"boxes": [[0, 0, 10, 10]]}', "{", '{"boxes": [5, 0, 1, 2]}', "[" * 99]
)
def test_a_box_in_another_form_earns_the_format_alone(text):
    assert scored(text, '{"boxes": [0, 0, 10, 10]}', "spatial grounding").score == pytest.approx(0.1)


def test_a_minus_sign_of_any_kind_is_one():
    for text, truth, accuracy in (("−5", "-5", 1), ("-5", "−5", 1), ("−5", "5", 0)):
        assert scored(text, truth, "numerical").accuracy == accuracy


@pytest.mark.parametrize(
    "text", ['{"time": [1]}', '{"time": 1}', "[1, 2]", '{"time": [1, NaN]}', '{"time": [true, 2]}']
)
def test_a_time_in_another_form_earns_the_format_alone(text):
    assert scored(text, '{"time": [1, 2]}', "temporal grounding").score == pytest.approx(0.1)


def test_boxes_are_scaled_into_the_frame_of_the_truth():
    sizes = {"truth_size": (200, 100), "response_size": (100, 100)}
    assert scored('{"boxes": [5, 1, 10, 10]}', '{"boxes": [10, 1, 20, 10]}', "spatial grounding", **sizes).accuracy == 1


def test_without_the_form_there_is_no_structure_and_without_an_answer_nothing():
    given = {"problem_type": "numerical"}
    assert REWARDS.score(item("<answer>3</answer>", "3", given)).score == pytest.approx(0.9)
    assert REWARDS.score(item("3", "3", given)).score == 0


@pytest.mark.parametrize(
    ("task", "truth", "message"),
    [
        ("numerical", "three", "want a number"),
        ("ocr", " ", "truth: empty"),
        ("spatial grounding", "[0, 0, 1, 1]", "want {"),
        ("temporal grounding", "[0, 1]", "want {"),
        ("tracking", "3", r"problem_type: got 'tracking'; give multiple choice"),
        (None, "3", "problem_type: got None"),
    ],
)
def test_rows_that_cannot_be_scored(task, truth, message):
    for text in ("", "<answer>3</answer>"):
        with pytest.raises(DataError, match=message):
            REWARDS.score(item(text, truth, {"problem_type": task}))
    with pytest.raises(DataError, match=message):
        REWARDS.check_score(truth, {"problem_type": task}, None)
    with pytest.raises(DataError, match=message):
        scored("3", truth, task)


@given(st.floats(-100, 100), st.lists(st.floats(0, 2), min_size=2, max_size=5))
def test_a_regression_is_worth_less_the_larger_its_error(true, errors):
    shares = [scored(repr(true + error * abs(true)), repr(true), "regression").accuracy for error in sorted(errors)]
    assert all(near >= far for near, far in pairwise(shares))
    assert scored(repr(true), repr(true), "regression").accuracy == 1


@given(st.lists(st.sampled_from("abc"), max_size=6), st.lists(st.sampled_from("abc"), max_size=6))
def test_the_edit_distance_agrees_with_a_recursion(ours, true):
    def slow(a, b):
        if not a or not b:
            return len(a) + len(b)
        return min(slow(a[1:], b[1:]) + (a[0] != b[0]), slow(a[1:], b) + 1, slow(a, b[1:]) + 1)

    assert edit_distance(ours, true) == slow(ours, true) == edit_distance(true, ours)
