"""recipe/pearl: the answers to a checklist, the groups that they make, and the gate."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mars.algorithms.advantages import AdvantageSettings
from mars.algorithms.pooled_rewards import PooledRewards
from mars.errors import ConfigError, DataError
from mars.hooks.settings import read_settings
from mars.hooks.step_hooks import Named
from mars.rewards.local import LocalScorer
from mars.types import RewardResult
from tests.builders import make_prompt, make_rollouts, with_extra
from tests.fakes.requests import with_requests
from tests.fakes.step import EOS, IMAGE, one_step, parts
from tests.hook_builders import step_facts, step_hooks
from tests.shipped.recipes.recipe_files import ROOT, answer, item, module_of, reward_of

RECIPE = module_of("pearl")
SETTINGS = RECIPE.Settings(num_samples=3, threshold=0.5)
FACTS = step_facts(SETTINGS)
CHECKLIST = [
    {"question": "Which colour is the bus?", "answer": "red"},
    {"question": "How many wheels?", "answer": "4", "source": None},
    {"question": "Is the road warm?", "answer": "yes", "source": "s1"},
]


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("red\n4\nno", 1.0),
        ("1. red\n2) 4\n3: no", 1.0),
        ("1. blue\n2. 4\n3. no", 2 / 3),
        ("red\n\n4", 2 / 3),
        ("red\n4\nno\nred", 1.0),
        ("4\nred\nno", 1 / 3),
        ("", 0.0),
    ],
)
def test_the_share_of_right_lines(text, share):
    truth = json.dumps(["red", "4", "no"])
    result = reward_of("pearl", "score")(item(answer(text), truth, {"choices": ["A", "B"]}, extra="perception"))
    assert (result.score, result.accuracy, result.parts) == (
        pytest.approx(share), pytest.approx(share), {"perception": pytest.approx(share)}
    )  # fmt: skip


def test_a_number_that_is_the_answer_stays():
    truth = json.dumps(["2", "3.5"])
    assert RECIPE.share_right(item(answer("2\n3.5"), truth)) == 1.0
    assert RECIPE.share_right(item(answer("1. 2\n2. 3.5"), truth)) == 1.0


def test_the_prompt_itself_is_scored_as_vqa_does():
    assert reward_of("pearl", "score")(item(answer("4"), "4")).score == 1.5


@given(st.permutations(["red", "4", "no", "bus"]), st.integers(0, 4))
def test_the_share_is_the_number_of_places_that_agree(truths, cut):
    said = ["red", "4", "no", "bus"][:cut]
    found = RECIPE.share_right(item(answer("\n".join(said)), json.dumps(truths)))
    assert found == sum(a == b for a, b in zip(said, truths, strict=False)) / 4


def test_one_request_for_all_images_and_one_for_each_image_alone():
    prompt = make_prompt("p", [IMAGE] * 2, extra_info={"checklist": CHECKLIST})
    both, one = RECIPE.Checklist().before(prompt, FACTS)
    assert both.messages[0].text == (
        f"<image><image>1. Which colour is the bus?\n2. How many wheels?\n{RECIPE.INSTRUCTION}"
    )
    assert (both.role, both.view, both.truth, both.num_samples) == ("own_group", None, '["red", "4"]', 3)
    assert (one.view, one.truth, len(one.images)) == (("s1",), '["yes"]', 1)
    assert one.messages[0].text.startswith("<image>1. Is the road warm?\n")
    assert RECIPE.Checklist().before(make_prompt("p", [IMAGE]), FACTS) == []


@pytest.mark.parametrize(
    ("checklist", "problem"),
    [
        ([{"question": "?", "answer": "4"}, {"question": "?"}], r"got \{'question': '\?'\}; want a list of"),
        ([{"question": " ", "answer": "4"}], "want a list of"),
        ([{"question": "?", "answer": 4}], "both texts"),
        (["?"], r"got \?; want a list of"),
        (7, "got 7; want a list of"),
        ([{"question": "?", "answer": "4", "source": "sonar"}], "unknown source; got sonar; the row has s0"),
    ],
)
def test_a_wrong_checklist_is_refused_with_its_row(checklist, problem):
    prompt = make_prompt("p", [IMAGE], extra_info={"checklist": checklist})
    with pytest.raises(DataError, match=rf"^rows\.jsonl:p: extra_info\.checklist: .*{problem}"):
        RECIPE.checklist_of(prompt)


def test_a_checklist_is_checked_with_its_row_before_the_run():
    check = RECIPE.check_score
    good = [{"question": "?", "answer": "4", "source": "sonar"}, {"question": "?", "answer": "red"}]
    assert check("4", {"checklist": good}, None) is None
    assert check("", {"checklist": good}, None).startswith("truth: empty")
    wrong = check("4", {"checklist": [*good, {"question": "?", "answer": "[1]"}]}, None)
    assert wrong.startswith("extra_info.checklist: truth: a list")
    with pytest.raises(DataError, match=r"extra_info\.checklist: got 7"):
        check("4", {"checklist": 7}, None)


def test_a_malformed_answer_of_a_checklist_is_an_error_with_a_line_for_it_or_without():
    for text in ("<answer>4\n5</answer>", ""):
        with pytest.raises(DataError, match="truth"):
            RECIPE.score(item(text, '["4", ""]', extra=RECIPE.NAME))


@pytest.mark.parametrize("values", [{"num_samples": 1, "threshold": 0.5}, {"num_samples": 2, "threshold": 1.5}])
def test_settings_that_cannot_work_are_refused(values):
    with pytest.raises(ConfigError, match="want num_samples of 2 or more and a threshold in"):
        read_settings("recipe.settings.pearl", RECIPE, values)


def gated(rollouts, threshold=0.5):
    """Weights after the gate."""
    settings = AdvantageSettings("group_norm", True, "mean_and_std", True, 0.0, 1e-6)
    base = PooledRewards.of_rollouts(rollouts).advantages(settings)
    facts = replace(FACTS, settings=replace(SETTINGS, threshold=threshold))
    found = RECIPE.Gate()(base, rollouts, facts)
    assert torch.equal(found.values, base.values)
    return found.weights.tolist()


def checked(name, shares, role="own_group", extra="perception"):
    """A prompt with two responses and a checklist whose responses have these shares of right answers."""
    rewards = [None if share is None else RewardResult(share, share, {}) for share in shares]
    return with_extra(make_rollouts(name, [1.0, 0.0]), extra, role, rewards)


def test_the_gate_by_hand():
    """(1 + 0.5 + 0) / 3 = 0.5 is enough, (0.5 + 0) / 2 is not; failed responses and other requests do not count."""
    rollouts = [checked("a", [1, 0.5, 0]), checked("b", [0.5, 0, None]), checked("c", [None]), checked("d", []),
                make_rollouts("e", [1.0, 0.0]), checked("f", [0.0], "signal", "blind")]  # fmt: skip
    assert gated(rollouts) == [1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1]
    guest = with_extra(checked("g", [0.0]), "told", "guest", [1.0])
    assert gated([guest, checked("a", [1])]) == [0, 0, 0, 1, 1], "guests are left out with their prompt"


@given(st.permutations([7, 1, 6, 2, 5, 8, 9, 2]))
def test_a_mean_of_exactly_the_threshold_opens(tenths):
    """40 of 80 answers are right, in whatever order; 39 of 80 are not enough."""
    assert gated([checked("p", [n / 10 for n in tenths])]) == [1, 1]
    assert gated([checked("p", [(n - (i == 0)) / 10 for i, n in enumerate(tenths)])]) == [0, 0]


@given(st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1), min_size=1), st.floats(0, 1))
def test_a_higher_threshold_opens_for_no_other_prompt(all_shares, threshold):
    rollouts = [checked(f"p{i}", shares) for i, shares in enumerate(all_shares)]
    loose, tight = gated(rollouts, threshold / 2), gated(rollouts, threshold)
    assert all(a >= b for a, b in zip(loose, tight, strict=True))
    assert gated(rollouts, 0.0) == [1] * 2 * len(rollouts)


def test_it_keeps_nothing_between_steps():
    gate = RECIPE.Gate()
    gate.restore(gate.state())
    assert gate.state() == {}


@pytest.mark.parametrize(("threshold", "trained"), [(0.6, False), (0.5, True)])
def test_a_step_trains_the_checklist_in_any_case(threshold, trained):
    """Responses to the prompt: 1.5, 0, 0, 0. To the checklist: 1 of 2 right, 0, 2 of 2: advantages 0, -1, 1."""
    settings = replace(SETTINGS, threshold=threshold)
    hooks = step_hooks(
        requests=Named("pearl:Checklist", RECIPE.Checklist(), settings),
        advantage=(Named("pearl:Gate", RECIPE.Gate(), settings),),
    )
    made = with_requests(parts({}, anchor="mono", anchor_samples=1), hooks)
    texts = {1: answer("4"), 2: "", 3: "", 4: "", 5: answer("red\n5"), 6: "", 7: answer("red\n4")}
    made.engine._script = lambda request, k: (*[5] * ((1 if request.extra is None else 5) + k), EOS)
    scorer = LocalScorer(f"{ROOT / 'recipe' / 'pearl' / 'functions.py'}:score", "strict")
    made = replace(made, scorer=scorer, decode=lambda ids: texts[list(ids).count(5)])
    prompt = make_prompt("p0", [IMAGE] * 2, truth="4", extra_info={"checklist": CHECKLIST[:2]})
    result = one_step(made, [prompt])
    *main, own = made.trainer.batches[0].prompts
    assert [len(one.responses) for one in main] == [4] * trained
    assert [r.advantage for r in own.responses] == pytest.approx([0, -1, 1], rel=1e-4, abs=1e-9)
    assert len(own.images) == 2
    assert result.metrics["extra/perception/accuracy/mean"] == 0.5
    assert (result.metrics["critic/advantages/size_after_rules"] > 0) == trained
