"""recipe/mmr1_vas: the score of a prompt, the weights it gives, the two halves of a batch, and the probes."""

from __future__ import annotations

import random
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mars.hooks.prompt_sampler import SampledRounds
from mars.step import train_step
from mars.step_parts import SamplingState
from mars.types import Completion
from tests.builders import make_prompt
from tests.fakes.step import parts
from tests.shipped.recipes.recipe_files import module_of
from tests.shipped.recipes.sampler_runs import PROMPTS, SETUP, observed
from tests.unit.test_step import make_table

RECIPE = module_of("mmr1_vas")
SETTINGS = RECIPE.Settings(
    learnability=1.0, distinct_3=0.0, self_bleu_123=0.0, edit_distance=0.0, momentum=0.0, ratio=0.5, probe_every=4,
    probe_prompts=None, right_from=0.5,
)  # fmt: skip


def sampler(setup=SETUP, **changes):
    return RECIPE.VarianceAware(setup, replace(SETTINGS, **changes))


def names(prompts):
    return [prompt.prompt_id for prompt in prompts]


def saying(accuracies, texts):
    """The rollouts of p0 with these token ids."""
    item = observed(PROMPTS[0], accuracies)
    pairs = zip(item.multi.rollouts, texts, strict=True)
    rollouts = tuple(replace(one, completion=Completion(text, (-0.5,) * len(text), "stop")) for one, text in pairs)
    return replace(item, multi=replace(item.multi, rollouts=rollouts))


# --- scores and weights

TEXTS = [(1, 2, 3, 4), (1, 2, 3), (1, 2, 4), (9, 9, 9, 9, 9)]
DISTINCT = 3 / 4  # of the first three: 123, 234, 123, 124


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({}, 1 / 3 * 2 / 3),
        ({"learnability": 0.8, "distinct_3": 0.2}, 0.8 * 2 / 9 + 0.2 * DISTINCT),
        # 1234 and 123: one deletion; 1234 and 124: one; 123 and 124: one replacement.
        ({"learnability": 0.0, "edit_distance": 0.5}, 0.5 * (1 + 1 + 1) / 3),
        # 1234: unigrams 4 of 4, bigrams 12 and 23 of 3, trigram 123 of 2; longer than both others. 123: all of its
        # n-grams are in 1234, and a text of the same length is closest. 124: 3 of 3, 12 of 2, 0.1 of 1.
        (
            {"learnability": 0.0, "self_bleu_123": -1.0},
            -((1 * 2 / 3 * 1 / 2) ** (1 / 3) + 1 + (1 * 1 / 2 * 0.1) ** (1 / 3)) / 3,
        ),
    ],
)
def test_the_score_of_a_prompt_by_hand(weights, expected):
    """One right and two wrong responses; the fourth failed, and its text does not count."""
    item = saying([1, 0, 0.4, None], TEXTS)
    assert RECIPE.score(item, replace(SETTINGS, **weights)) == pytest.approx(expected, rel=1e-12)


def test_a_number_without_weight_is_not_computed(monkeypatch):
    def refuse(*given):
        raise AssertionError

    for name in ("distinct_ngrams", "self_bleu", "mean_edit_distance"):
        monkeypatch.setattr(RECIPE, name, refuse)
    assert RECIPE.score(saying([1, 0, 0, 1], TEXTS), SETTINGS) == 1 / 4
    assert RECIPE.score(saying([None] * 4, TEXTS), replace(SETTINGS, distinct_3=1.0)) is None


def test_scores_become_weights_by_hand():
    """Lowest 0, highest 1/4; the unknown one gets the mean of 1, 0 and 1/2."""
    found = RECIPE.draw_weights(np.array([0.25, np.nan, 0.0, 0.125]))
    assert found.tolist() == pytest.approx([1, 1 / 2, 0, 1 / 2], abs=1e-6)
    assert RECIPE.draw_weights(np.array([np.nan, np.nan])).tolist() == [1, 1]
    assert RECIPE.draw_weights(np.array([0.2, 0.2, np.nan])).tolist() == [0, 0, 0]


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=9), st.floats(-5, 5), st.floats(0.1, 5))
def test_weights_are_between_0_and_1_in_the_order_of_scores_whatever_their_scale(scores, shift, scale):
    values = np.array(scores)
    weights = RECIPE.draw_weights(values)
    assert ((weights >= 0) & (weights <= 1)).all()
    assert (np.diff(weights[np.argsort(values, kind="stable")]) >= 0).all()
    assert RECIPE.draw_weights(values * scale + shift) == pytest.approx(
        weights, abs=1e-5 + 1e-5 / (np.ptp(values) or 1)
    )


def test_momentum_keeps_a_part_of_the_score_before():
    made = sampler(momentum=0.75)
    made.observe([observed(PROMPTS[0], [1, 0, 1, 0])], 1)
    assert made.state()["scores"] == {"p0": 1 / 4}
    metrics = made.observe([observed(PROMPTS[0], [1, 1, 1, 1]), observed(PROMPTS[1], [None] * 4)], 2)
    assert made.state()["scores"] == {"p0": 0.75 / 4}
    assert metrics == {"known": 1, "score": 0.75 / 4, "weight": 0}


# --- batches


def test_half_of_a_batch_follows_the_weights_and_the_other_half_a_fixed_order():
    """Only p7 has rewards that vary, so it is always drawn; the others are walked through: each once in nine."""
    setup = replace(SETUP, prompts_per_step=2)
    made = sampler(setup)
    accuracies = {prompt.prompt_id: [1, 1, 1, 1] for prompt in PROMPTS} | {"p7": [1, 0, 1, 0]}
    made.observe([observed(prompt, accuracies[prompt.prompt_id]) for prompt in PROMPTS], 1)
    batches = [names(made.batch(round, frozenset())) for round in range(18)]
    assert {batch[0] for batch in batches} == {"p7"}
    walked = [batch[1] for batch in batches]
    assert sorted(walked[:9]) == sorted({prompt.prompt_id for prompt in PROMPTS} - {"p7"})
    assert walked[9:] == walked[:9]


def test_a_batch_by_ratio():
    assert RECIPE.interleaved([1, 2], [3, 4, 5]) == [1, 3, 2, 4, 5]
    assert RECIPE.interleaved([1, 2, 0], [3]) == [1, 3, 2, 0]
    orders = [names(sampler(ratio=0.0).batch(round, frozenset())) for round in range(5)]
    assert orders == [orders[0]] * 5, "a new sampler begins the walk anew"
    walk = sampler(ratio=0.0)
    walked = [name for round in range(10) for name in names(walk.batch(round, frozenset()))]
    assert walked == walked[:10] * 3
    assert set(walked) == {prompt.prompt_id for prompt in PROMPTS}
    drawn = sampler(ratio=1.0)
    drawn.batch(0, frozenset())
    assert drawn.state()["place"] == 0, "nothing is walked"


def test_draws_are_in_proportion_to_the_weights():
    """Scores 1/4, 3/16 and 0 give the weights 1, 3/4 and 0; of a batch of two, one is drawn."""
    setup = replace(SETUP, sets=(tuple(PROMPTS[:3]),), prompts_per_step=2)
    made = sampler(setup)
    accuracies = ([1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0])
    made.observe([observed(prompt, given) for prompt, given in zip(PROMPTS[:3], accuracies, strict=True)], 1)
    first = [names(made.batch(round, frozenset()))[0] for round in range(2000)]
    share = first.count("p0") / 2000
    assert abs(share - 4 / 7) < 4 * (4 / 7 * 3 / 7 / 2000) ** 0.5
    assert first.count("p2") == 0


# --- probes


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [10, 0, 0, 0, 10, 0, 0, 0, 10]),
        ({"probe_every": 2, "probe_prompts": 4}, [4, 0, 4, 0, 4, 0, 4, 0, 4]),
        ({"probe_every": 1, "probe_prompts": 99}, [10] * 9),
        ({"probe_every": 0}, [0] * 9),
    ],
)
def test_when_probes_are_taken_and_how_many(changes, expected):
    made = sampler(**changes)
    assert [len(made.probes(step)) for step in range(1, 10)] == expected


@pytest.mark.parametrize("every", [1, 3])
def test_probes_rotate_through_all_prompts(every):
    made = sampler(probe_every=every, probe_prompts=4)
    probed = [name for step in range(1, 1 + 5 * every) for name in names(made.probes(step))]
    assert set(probed[:10]) == set(probed[10:]) == {prompt.prompt_id for prompt in PROMPTS}
    assert probed[10:] == probed[:10]
    assert len(set(names(made.probes(1 + 2 * every)))) == 4, "around the end too"


def test_a_step_probes_all_prompts_and_trains_on_its_batch_alone():
    made = sampler()
    table = make_table(PROMPTS, random.Random(1))
    result = train_step(parts(table), SampledRounds("mmr1_vas:VarianceAware", made, SETUP), SamplingState(0, ()), 1)
    assert len(result.rollouts) == 3
    assert result.metrics["sampler/known"] == 10
    right = {prompt.prompt_id: [table[prompt.prompt_id, None, k] >= 0.5 for k in range(4)] for prompt in PROMPTS}
    expected = {name: sum(of) / 4 * (1 - sum(of) / 4) for name, of in right.items()}
    assert made.state()["scores"] == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"momentum": 1.0}, "momentum must be from 0 to below 1"),
        ({"ratio": 1.1}, "and ratio from 0 to 1"),
        ({"probe_every": -1}, "probe_every must be 0 or more"),
        ({"probe_prompts": 0}, "probe_prompts 1 or more"),
        ({"learnability": 0.0}, "one of learnability, .* must not be 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        RECIPE.Settings(**asdict(SETTINGS) | changes)


def test_prompts_that_cannot_be_read_make_a_batch_smaller():
    setup = replace(SETUP, sets=((make_prompt("a"), make_prompt("b"), make_prompt("c")),), prompts_per_step=3)
    assert sorted(names(sampler(setup).batch(0, frozenset({"c"})))) == ["a", "b"]
    assert sampler(setup).batch(0, frozenset({"a", "b", "c"})) == []
