"""Numbers that change during a run: their shapes, what is refused, and where they arrive."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mars.actor.objective import Objective
from mars.checkpoint.state import START
from mars.config.load import load_config
from mars.config.ramp_section import KEYS, Ramp, weights_at
from mars.data.order.stream import PromptStream
from mars.errors import ConfigError
from mars.hooks.load import resolved
from mars.hooks.of_workers import token_rule
from mars.step import train_step
from mars.step_async import Overlap, train_step_async
from tests.builders import make_prompt, train_config
from tests.fakes.step import IMAGE, Rounds, one_step, parts
from tests.hook_builders import loaded_hooks, step_hooks
from tests.shipped.recipes.token_facts import facts_of
from tests.unit.hooks.test_step_hooks import FILE
from tests.unit.test_step import make_table


def ramp(key="recipe.settings.own.bonus", first=0.0, last=1.0, start=2, steps=4, shape="linear", slope=None) -> Ramp:
    return Ramp(key=key, first=first, last=last, start=start, steps=steps, shape=shape, slope=slope)


@pytest.mark.parametrize(
    ("shape", "slope", "wanted"),
    [
        ("constant", None, [1.0, 3.0, 3.0, 3.0, 3.0, 3.0]),
        ("linear", None, [1.0, 1.0, 1.5, 2.0, 3.0, 3.0]),
        ("cosine", None, [1.0, 1.0, 2 - math.sqrt(0.5), 2.0, 3.0, 3.0]),
        ("sigmoid", 4.0, [1 + 2 / (1 + math.e), 2.0, 3 - 2 / (1 + math.e), 3 - 2 / (1 + math.e**2), *[None] * 2]),
    ],
)
def test_shapes_by_hand(shape, slope, wanted):
    """From 1 to 3, beginning at step 2 over 4 steps; a sigmoid has its middle there."""
    one = ramp(first=1.0, last=3.0, shape=shape, slope=slope)
    found = [one.at(step) for step in (1, 2, 3, 4, 6, 100)]
    assert [
        pair for pair in zip(found, wanted, strict=True) if pair[1] is not None and abs(pair[0] - pair[1]) > 1e-12
    ] == []
    assert found[-1] == pytest.approx(3.0)


@given(
    st.floats(-10, 10),
    st.floats(-10, 10),
    st.integers(0, 50),
    st.integers(1, 50),
    st.sampled_from(["constant", "linear", "cosine", "sigmoid"]),
)
def test_values_stay_between_first_and_last_and_go_one_way(first, last, start, steps, shape):
    one = ramp(
        first=first, last=last, start=start, steps=steps, shape=shape, slope=60.0 if shape == "sigmoid" else None
    )
    values = [one.at(step) for step in range(1, 120)]
    low, high = min(first, last) - 1e-9, max(first, last) + 1e-9
    assert all(low <= value <= high for value in values)
    assert all((b - a) * (last - first) >= -1e-9 for a, b in pairwise(values))
    assert values[-1] == pytest.approx(last, abs=1e-6) or shape == "sigmoid"


# --- what is refused

LENGTH = "{key: rollout.max_response_tokens, first: %s, last: 64, start: 1, steps: 4, shape: linear, slope: null}"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            LENGTH.replace("rollout.max_response_tokens", "rollout.top_p") % 1,
            r"^ramps: rollout\.top_p: cannot change",
        ),
        (
            LENGTH % 9000,
            r"^ramps: rollout\.max_response_tokens: longer than rollout\.max_response_tokens=\d+; got 9000",
        ),
        (LENGTH % 0.5, r"^ramps: rollout\.max_response_tokens: not an integer; got 0\.5"),
        (
            LENGTH % 0,
            r"^ramps: rollout\.max_response_tokens: not valid \(rollout\.max_response_tokens: out of range; got 0",
        ),
        (
            LENGTH.replace("linear", "sigmoid") % 8,
            r"shape sigmoid and slope do not go together; got null; give a number > 0",
        ),
        (LENGTH.replace("null", "2.0") % 8, r"shape linear and slope do not go together; got 2\.0; set it to null"),
        (f"{LENGTH % 8}, {LENGTH % 8}", r"comes twice; give one ramp for each key"),
        ((LENGTH % 1).replace("rollout.max_response_tokens", "recipe.settings.own"), r"names no setting of a file"),
        (LENGTH.replace("linear", "stairs") % 8, r"^ramps: not one of the choices; got 'stairs'"),
    ],
)
def test_ramps_that_cannot_work_are_refused(entry, message):
    with pytest.raises(ConfigError, match=message):
        load_config("train", ["data.train_files=[a]", f"ramps=[{entry}]"], [])


def test_a_ramp_is_checked_with_the_rules_of_its_key():
    one = "{key: rollout.samples_per_prompt, first: 4, last: 1, start: 1, steps: 4, shape: linear, slope: null}"
    with pytest.raises(ConfigError, match=r"samples_per_prompt: not valid \(.*a single rollout has no advantage"):
        load_config("train", ["data.train_files=[a]", "anchor=none", f"ramps=[{one}]"], [])
    assert load_config("train", ["data.train_files=[a]", "anchor=mono", f"ramps=[{one}]"], []).ramps[0].last == 1.0


WEIGHT = "{key: data.weights.%s, first: %s, last: 3.0, start: 1, steps: 4, shape: linear, slope: null}"


def mixed(entry, *overrides):
    files = ["data.train_files=[a,b]", "data.weights=[1.0,2.0]"]
    return load_config("train", [*files, f"ramps=[{entry}]", *overrides], [])


@pytest.mark.parametrize(
    ("entry", "overrides", "message"),
    [
        (WEIGHT % (2, 1.0), [], r"data\.weights\.2: no such weight; got \[1\.0, 2\.0\]"),
        (WEIGHT % ("one", 1.0), [], r"data\.weights\.one: no such weight"),
        (WEIGHT % (0, 1.0), ["data.weights=null"], r"data\.weights\.0: no such weight; got null"),
        (WEIGHT % (0, 0.0), [], r"data\.weights\.0: not valid \(.*; got 0"),
        (
            WEIGHT % (0, 1.0),
            ["algorithm=dapo"],
            r"a step may have several rounds of prompts; set algorithm\.selection=all",
        ),
        (WEIGHT % (0, 1.0), ["recipe.sampler=own.py:Own"], r"a sampler chooses the prompts; leave out one"),
    ],
)
def test_ramps_of_weights_that_cannot_work_are_refused(entry, overrides, message):
    with pytest.raises(ConfigError, match=message):
        mixed(entry, *overrides)


def test_the_weights_of_a_round_are_those_of_its_step():
    """0.5, 1.0 and 1.5 of step 1 to 3 and so on; the other weight stays."""
    one = ramp("data.weights.1", 0.5, 2.5, 1, 4)
    at, lowest, highest = weights_at([4.0, 2.0], [ramp("algorithm.clip_high"), one])
    assert [at(round) for round in (0, 1, 2, 4, 9)] == [[4.0, value] for value in (0.5, 1.0, 1.5, 2.5, 2.5)]
    assert (lowest, highest) == ([4.0, 0.5], [4.0, 2.5])
    assert weights_at([4.0, 2.0], [ramp("algorithm.clip_high")]) is None
    assert mixed(WEIGHT % (1, 1.5)).ramps[0].at(3) == 2.25


def test_a_coefficient_that_is_0_has_no_ramp():
    """Else no reference model would be loaded for it."""
    one = "{key: algorithm.kl_coefficient, first: 0.0, last: 0.04, start: 1, steps: 4, shape: cosine, slope: null}"
    given = ["data.train_files=[a]", f"ramps=[{one}]"]
    with pytest.raises(
        ConfigError, match=r"^ramps: algorithm\.kl_coefficient: algorithm\.kl_coefficient is 0, so that"
    ):
        load_config("train", [*given, "algorithm.kl_coefficient=0.0"], [])
    assert (
        load_config("train", [*given, "algorithm.kl_coefficient=0.001"], []).ramps[0].key == "algorithm.kl_coefficient"
    )


def test_a_setting_that_no_hook_reads_is_refused(tmp_path):
    (tmp_path / "own.py").write_text(FILE)
    overrides = [
        "data.train_files=[a]",
        f"recipe.shaping=[{tmp_path}/own.py:Bonus]",
        "recipe.settings={own: {bonus: 1.0}}",
    ]
    recipe = resolved(load_config("train", overrides, []).recipe)
    for key in ("recipe.settings.own.bonsu", "recipe.settings.other.bonus"):
        with pytest.raises(ConfigError, match=rf"^ramps: {key}: no hook of the run reads it anew"):
            loaded_hooks(recipe, ramps=[ramp(key)])


RULE = """
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    weight: float
    share: float
    count: int

    def __post_init__(self):
        if self.weight < 0:
            raise ValueError("weight must not be negative")


class Rule:
    passes, measures, ramps = (), False, ("weight", "count")

    def __init__(self, settings):
        self.settings = settings

    def measure(self, facts):
        return {}

    def apply(self, facts, totals):
        return facts.now("own", self.settings)


class Fixed(Rule):
    ramps = ()
"""


def rule_recipe(tmp_path, rule):
    (tmp_path / "own.py").write_text(RULE)
    overrides = [
        "data.train_files=[a]",
        f"recipe.tokens={tmp_path}/own.py:{rule}",
        "recipe.settings={own: {weight: 1.0, share: 0.5, count: 9}}",
    ]
    return resolved(load_config("train", overrides, []).recipe)


@pytest.mark.parametrize(
    ("rule", "ramps", "message"),
    [
        (
            "Rule",
            [ramp("recipe.settings.own.share")],
            r"share: no hook of the run reads it anew .*; got 'share'; give one of weight, count",
        ),
        (
            "Rule",
            [ramp("recipe.settings.own.weight"), ramp("recipe.settings.own.share")],
            r"share: no hook of the run reads it",
        ),
        ("Rule", [ramp("recipe.settings.own.wait")], r"wait: no hook of the run reads it"),
        ("Rule", [ramp("recipe.settings.own.weight", last=-1.0)], r"weight: weight must not be negative; got -1"),
        (
            "Fixed",
            [ramp("recipe.settings.own.weight")],
            r"weight: no hook of the run reads it .*; leave this ramp out",
        ),
    ],
)
def test_a_setting_that_a_token_rule_does_not_read_in_each_step_is_refused(tmp_path, rule, ramps, message):
    with pytest.raises(ConfigError, match=rf"^ramps: recipe\.settings\.own\.{message}"):
        loaded_hooks(rule_recipe(tmp_path, rule), ramps=ramps)


# --- where they arrive


def test_a_token_rule_reads_the_value_of_its_step(tmp_path):
    recipe = rule_recipe(tmp_path, "Rule")
    hooks = loaded_hooks(recipe, ramps=[ramp("recipe.settings.own.weight", first=0.2)])
    rule = token_rule(recipe, with_reference=False, ramps=[])
    assert rule is not None
    facts = facts_of(torch.zeros(1), torch.zeros(1), [1])
    for step, weight in ((1, 0.2), (4, 0.6), (9, 1.0)):
        now = rule.apply(replace(facts, settings={one.key: one.at(step) for one in hooks.ramps}), {})
        assert (now.weight, now.share) == (pytest.approx(weight), 0.5)
    assert rule.apply(facts, {}) is rule.settings, "without a ramp the settings are those of the run"


def test_an_integer_of_a_token_rule_stays_one(tmp_path):
    """5, 6.25, 7.5 and so on, from 5 to 10."""
    rule = token_rule(rule_recipe(tmp_path, "Rule"), with_reference=False, ramps=[])
    assert rule is not None
    one = ramp("recipe.settings.own.count", first=5, last=10)
    facts = facts_of(torch.zeros(1), torch.zeros(1), [1])
    found = [rule.apply(replace(facts, settings={one.key: one.at(step)}), {}).count for step in (1, 3, 4, 9)]
    assert (found, {type(value) for value in found}) == ([5, 6, 8, 10], {int})


@pytest.fixture
def prompts():
    return [make_prompt(f"p{i}", [IMAGE] * 2, extra_info={"name": f"p{i}"}) for i in range(4)]


def test_a_hook_reads_the_value_of_its_step(tmp_path, prompts):
    (tmp_path / "own.py").write_text(FILE)
    overrides = [
        "data.train_files=[a]",
        f"recipe.shaping=[{tmp_path}/own.py:Bonus]",
        "recipe.settings={own: {bonus: 9.0}}",
    ]
    recipe = resolved(load_config("train", overrides, []).recipe)
    made = replace(parts(make_table(prompts, random.Random(0))), hooks=loaded_hooks(recipe, ramps=[ramp(last=0.5)]))
    for step, bonus in ((1, 0.0), (3, 0.125), (7, 0.5)):
        result = one_step(made, prompts[:1], step)
        (item,) = result.rollouts
        assert {rollout.reward.parts["bonus"] for rollout in item.multi.rollouts} == {bonus}
        assert result.metrics["ramp/recipe.settings.own.bonus"] == bonus


@pytest.mark.parametrize("schedule", ["synchronous", "asynchronous"])
def test_requests_and_the_trainer_get_the_values_of_their_step(prompts, schedule):
    """Those of the step that samples or trains, also of what is sampled ahead."""
    ramps = (
        ramp("rollout.samples_per_prompt", 4, 2, 1, 2), ramp("rollout.max_response_tokens", 16, 8, 1, 2),
        ramp("algorithm.clip_high", 0.2, 0.4, 1, 2),
    )  # fmt: skip
    made = replace(parts(make_table(prompts, random.Random(0))), hooks=step_hooks(ramps=ramps))
    stream, state = PromptStream(prompts, 2, 0, True), START.sampling
    step_of = train_step
    if schedule == "asynchronous":
        step_of = lambda *given: train_step_async(*given, Overlap(1, lambda step, state: step == 3))  # noqa: E731
    sampled = []
    for step in (1, 2, 3):
        result = step_of(made, stream, state, step)
        state = result.state
        sampled.append({len(item.multi.rollouts) for item in result.rollouts})
    assert sampled == [{4}, {3}, {2}]
    longest = [request.sampling.max_response_tokens for request in made.engine.requests]
    assert sorted(set(longest)) == [8, 12, 16]
    clips = [batch.settings["algorithm.clip_high"] for batch in made.trainer.batches]
    assert clips == pytest.approx([0.2, 0.3, 0.4])


def test_requests_have_the_temperature_of_their_step_and_greedy_anchors_none(prompts):
    made = replace(
        parts(make_table(prompts, random.Random(0))),
        hooks=step_hooks(ramps=(ramp("rollout.temperature", 1.2, 0.8, 1, 2),)),
    )
    greedy = replace(made.plan.anchor_sampling, temperature=0.0)
    for anchors, wanted in ((made.plan.anchor_sampling, {0.8}), (greedy, {0.0})):
        one_step(replace(made, plan=replace(made.plan, anchor_sampling=anchors)), prompts[:1], 3)
        requests = made.engine.requests[-3:]
        assert {request.sampling.temperature for request in requests if request.view is None} == {0.8}
        assert {request.sampling.temperature for request in requests if request.view is not None} == wanted
        assert {request.sampling.top_p for request in requests} == {0.9}
    assert [prompt.temperature for batch in made.trainer.batches for prompt in batch.prompts] == [0.8, 0.8]


def test_a_carried_prompt_keeps_the_temperature_of_its_sampling(prompts):
    class ThreeEach(Rounds):
        def batch(self, step):
            return [self.prompts[(3 * step + i) % 4] for i in range(3)]

    ramps = (ramp("rollout.temperature", 1.2, 0.8, 1, 2),)
    made = replace(parts(make_table(prompts, random.Random(0))), hooks=step_hooks(ramps=ramps))
    state = train_step(made, ThreeEach(prompts, 2), START.sampling, 1).state
    train_step(made, ThreeEach(prompts, 2), state, 2)
    found = [[(prompt.prompt_id, prompt.temperature) for prompt in batch.prompts] for batch in made.trainer.batches]
    assert found == [[("p0", 1.2), ("p1", 1.2)], [("p2", 1.2), ("p3", 1.0)]]


def test_the_kl_in_the_reward_has_the_coefficient_of_the_step(prompts):
    one = ramp("algorithm.kl_coefficient", 0.5, 0.0, 1, 2)
    made = parts(make_table(prompts, random.Random(0)), kl_in_reward=0.5)
    made.trainer.kl_per_token = {prompt.prompt_id: 1.0 for prompt in prompts}
    made = replace(made, hooks=step_hooks(ramps=(one,)))
    found = []
    for step in (1, 2, 3):
        (item,) = one_step(made, prompts[:1], step).rollouts
        found.append(item.multi.rollouts[0].reward.parts.get("kl_penalty"))
    tokens = len(item.multi.rollouts[0].completion.token_ids)
    assert found == [-0.5 * tokens, -0.25 * tokens, None]


def test_the_objective_of_a_step_has_its_values():
    plain = Objective(train_config().algorithm, 0.0)
    assert plain.at({"rollout.samples_per_prompt": 3.0}) is plain
    changed = plain.at({"algorithm.clip_high": 0.5, "algorithm.kl_coefficient": 0.25})
    assert (plain.kl_in_loss, changed.kl_in_loss) == (False, True)
    assert changed._settings.clip_high == 0.5
    assert changed.at({"algorithm.clip_high": 0.3})._settings.clip_high == 0.3


def test_every_key_is_one_that_exists():
    values = train_config().dotted()
    assert set(KEYS) <= set(values)
