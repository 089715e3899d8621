"""Shaping and advantage rules by hand-computed numbers, and what is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import pytest
import torch

from mars.errors import ConfigError
from mars.hooks.step_hooks import Named, StepHooks
from mars.types import SampledPrompt
from tests.builders import make_reward, make_rollouts
from tests.fakes.step import GRPO
from tests.hook_builders import NO_HOOKS, loaded_hooks, step_facts, step_hooks
from tests.unit.hooks.test_load import recipe

ITEM = make_rollouts("x", [1.0, None, 0.5], s0=[0.25], s1=[0.0])


@dataclass
class Shaping:
    """Gives `amounts`, whatever it is called with."""

    amounts: tuple[float, ...]
    on: str = "multi"
    part: str = "own"

    def __call__(self, item, facts):
        return self.amounts


def hooks_of(*shaping) -> StepHooks:
    return step_hooks(shaping=tuple(Named(f"file:{each.part}", each, None) for each in shaping))


def scores(item):
    return [[r.reward.score for r in group.rollouts] for group in (item.multi, *item.anchors)]


def parts(item, name):
    return [[r.reward.parts.get(name) for r in group.rollouts] for group in (item.multi, *item.anchors)]


# --- shaping


def test_multi_responses_get_the_amounts_and_anchors_nothing():
    (shaped,) = hooks_of(Shaping((0.5, 9.0, -0.25))).shaped([ITEM], 1)
    assert scores(shaped) == [[1.5, 0.0, 0.25], [0.25], [0.0]]
    assert parts(shaped, "own") == [[0.5, None, -0.25], [0.0], [0.0]]
    assert shaped.multi.rollouts[1] == ITEM.multi.rollouts[1], "a failed rollout is left alone"


def test_all_responses_get_the_amounts_in_the_order_of_their_groups():
    (shaped,) = hooks_of(Shaping((0.5, 9.0, -0.25, 0.125, 1.0), on="all")).shaped([ITEM], 1)
    assert scores(shaped) == [[1.5, 0.0, 0.25], [0.375], [1.0]]


def test_a_shaping_sees_what_the_one_before_it_added():
    class Doubled(Shaping):
        def __call__(self, item, facts):
            return [rollout.reward.score for rollout in item.multi.rollouts]

    (shaped,) = hooks_of(Shaping((0.5, 0.0, 0.0)), Doubled((), part="doubled")).shaped([ITEM], 1)
    assert scores(shaped)[0] == [3.0, 0.0, 1.0]


def test_facts_tell_the_step_its_progress_and_the_settings():
    seen = []

    class Seeing(Shaping):
        def __call__(self, item, facts):
            seen.append(facts)
            return (0.0, 0.0, 0.0)

    hooks = step_hooks(shaping=(Named("file:a", Seeing(()), "settings"),), num_steps=4)
    for step in (1, 2, 4):
        hooks.shaped([ITEM], step)
    assert seen == [step_facts("settings"), step_facts("settings", 2, 0.25), step_facts("settings", 4, 0.75)]


def test_an_amount_that_is_no_number_fails_its_response_alone():
    (shaped,) = hooks_of(Shaping((float("nan"), 0.0, 0.0))).shaped([ITEM], 1)
    first, _, third = shaped.multi.rollouts
    assert first.reward.failed is not None
    assert "score with own" in first.reward.failed
    assert third.reward.score == 0.5


def test_a_wrong_number_of_amounts_ends_the_run():
    with pytest.raises(
        ConfigError, match=r'^recipe\.shaping: file:own must .* the 3 rollouts of rows\.jsonl:x \(on="multi"\); got 2'
    ):
        hooks_of(Shaping((0.5, 0.5))).shaped([ITEM], 1)
    with pytest.raises(ConfigError, match=r'each of the 5 rollouts of rows\.jsonl:x \(on="all"\); got 3'):
        hooks_of(Shaping((0.5, 0.5, 0.5), on="all")).shaped([ITEM], 1)


def test_a_part_of_the_reward_is_not_overwritten():
    reward = replace(make_reward(1.0), parts={"own": 0.25})
    with pytest.raises(ConfigError, match=r"adds the part own, which the reward of rows\.jsonl:x has already"):
        hooks_of(Shaping((0.5,))).shaped([make_rollouts("x", [reward])], 1)


# --- advantage rules


class Halved:
    """Halves weights, and adds to values the number of the calls before, which is its state."""

    def __init__(self):
        self.calls = 0

    def __call__(self, base, kept, facts):
        found = replace(base, values=base.values + self.calls, weights=base.weights / 2)
        self.calls += 1
        return found

    def state(self):
        return {"calls": self.calls}

    def restore(self, state):
        self.calls = state["calls"]


def ruled_by(*rules) -> StepHooks:
    return step_hooks(advantage=tuple(Named(f"file:{i}", rule, None) for i, rule in enumerate(rules)))


KEPT = [
    SampledPrompt(ITEM, (0.5, -0.5), (1.0, 0.0), carried=True),
    SampledPrompt(make_rollouts("y", [1.0, 0.0]), (2.0, -2.0), (1.0, 1.0)),
]


def test_a_rule_changes_values_and_weights_and_not_what_is_carried():
    hooks = ruled_by(Halved())
    kept, metrics = hooks.weighted(KEPT, GRPO, 1)
    assert [item.advantages for item in kept] == [(0.5, -0.5), (2.0, -2.0)]
    assert [item.weights for item in kept] == [(0.5, 0.0), (0.5, 0.5)]
    assert [item.carried for item in kept] == [True, False]
    assert [item.rollouts for item in kept] == [item.rollouts for item in KEPT]
    assert metrics == {"critic/advantages/size_before_rules": 4.5 / 4, "critic/advantages/size_after_rules": 2.25 / 4}
    assert hooks.weighted(KEPT, GRPO, 2)[0][1].advantages == (3.0, -1.0)


def test_rules_are_called_in_order_with_the_statistics_of_the_pool():
    seen = []

    class Seeing(Halved):
        def __call__(self, base, kept, facts):
            seen.append((base.weights.tolist(), base.mean.tolist(), [item.prompt.prompt_id for item in kept]))
            return base

    ruled_by(Halved(), Seeing()).weighted(KEPT, GRPO, 1)
    assert seen == [([0.5, 0.0, 0.5, 0.5], [1.75 / 4, 0.5], ["x", "y"])]


def test_without_rules_or_prompts_nothing_is_computed():
    assert NO_HOOKS.weighted(KEPT, GRPO, 1) == (KEPT, {})
    assert NO_HOOKS.weighted(KEPT, GRPO, 1)[0] is KEPT
    assert NO_HOOKS.shaped([ITEM], 1) == [ITEM]
    assert NO_HOOKS.snapshot({}) is None
    rule = Halved()
    assert ruled_by(rule).weighted([], GRPO, 1) == ([], {})
    assert rule.calls == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"values": torch.zeros(3)},
            r"^recipe\.advantage: file:0 gives values of another shape; got \[3\]; give \[4\]$",
        ),
        ({"weights": torch.zeros(4, 1)}, r"gives weights of another shape; got \[4, 1\]"),
        ({"values": torch.tensor([0.0, float("nan"), 0, 0])}, r"gives values that are not finite"),
        ({"weights": torch.tensor([1.0, -1.0, 0, 0])}, r"gives weights below 0; change the sign"),
    ],
)
def test_wrong_advantages_end_the_run(changed, message):
    class Wrong(Halved):
        def __call__(self, base, kept, facts):
            return replace(base, **changed)

    with pytest.raises(ConfigError, match=message):
        ruled_by(Wrong()).weighted(KEPT, GRPO, 1)


# --- what rules keep


def test_a_snapshot_brings_the_state_back_and_none_the_beginning():
    rule = Halved()
    hooks = ruled_by(rule)
    hooks = replace(hooks, initial=hooks.snapshot({}))
    hooks.weighted(KEPT, GRPO, 1)
    snapshot = hooks.snapshot({})
    assert json.loads(snapshot or "") == {"sampler": {}, "advantage": {"file:0": {"calls": 1}}}
    hooks.weighted(KEPT, GRPO, 2)
    hooks.restore(snapshot)
    assert rule.calls == 1
    hooks.restore(None)
    assert rule.calls == 0


def test_the_state_of_a_rule_that_is_gone_is_refused():
    snapshot = json.dumps(
        {"sampler": {}, "advantage": {"file:0": {"calls": 1}, "other:rule": {"x": 1}, "pure:rule": {}}}
    )
    with pytest.raises(
        ConfigError, match=r"the checkpoint has the state of other:rule; got file:0; resume with the rules"
    ):
        ruled_by(Halved()).restore(snapshot)


def test_a_state_that_is_not_json_ends_the_run():
    class Keeping(Halved):
        def state(self):
            return {"a": torch.zeros(1)}

    with pytest.raises(ConfigError, match=r"^recipe: the state of file:0 is not JSON \(.*Tensor"):
        ruled_by(Keeping()).snapshot({})


# --- from files

FILE = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Settings:
    bonus: float

class Bonus:
    part, on, ramps = "bonus", "multi", ("bonus",)
    def __call__(self, item, facts): return [facts.settings.bonus] * len(item.multi.rollouts)

class Same(Bonus): ...
class Odd(Bonus): on = "anchors"
class Taken(Bonus): part = "kl_penalty"
class Format(Bonus): part = "format"

class Rule:
    def __call__(self, base, kept, facts): return base
    def state(self): return {}
    def restore(self, state): ...
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(FILE)
    return f"{tmp_path}/own.py"


def test_hooks_are_made_from_the_files_of_the_recipe(own):
    given = recipe(shaping=[f"{own}:Bonus"], advantage=[f"{own}:Rule"], settings={"own": {"bonus": 0.5}})
    hooks = loaded_hooks(given, num_steps=3)
    (shaped,) = hooks.shaped([ITEM], 1)
    assert scores(shaped)[0] == [1.5, 0.0, 1.0]
    assert (hooks.parts, hooks.num_steps) == (("bonus",), 3)
    assert hooks.initial == '{"sampler": {}, "advantage": {"own:Rule": {}}}'
    assert loaded_hooks(recipe()) == NO_HOOKS


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["Bonus", "Same"], r"^recipe\.shaping: own:Same adds the part bonus, a name of own:Bonus; rename it$"),
        (["Odd"], r"own:Odd\.on is not one of the choices; got 'anchors'; give \"multi\" or \"all\"$"),
        (["Taken"], r"adds the part kl_penalty, a name of mars"),
        (["Format"], r"adds the part format, a name of algorithm\.part_weights"),
        (["Rule"], r"Rule makes a Rule without 'part'"),
    ],
)
def test_wrong_shapings_are_refused_before_the_run(own, names, message):
    given = recipe(shaping=[f"{own}:{name}" for name in names], settings={"own": {"bonus": 0.5}})
    with pytest.raises(ConfigError, match=message):
        loaded_hooks(given, part_weights=["format"])


def test_missing_settings_are_refused_before_the_run(own):
    with pytest.raises(ConfigError, match=r"^recipe\.settings\.own\.bonus: not set; give float"):
        loaded_hooks(recipe(shaping=[f"{own}:Bonus"]))
