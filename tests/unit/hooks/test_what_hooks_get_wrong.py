"""Rules, states and settings that are wrong: what is refused, in which words, and what metrics show."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from mars.config.ramp_section import Ramp
from mars.errors import ConfigError
from mars.hooks.step_hooks import as_json
from tests.builders import make_prompt
from tests.fakes.step import IMAGE, one_step, parts
from tests.hook_builders import loaded_hooks
from tests.unit.hooks.test_load import recipe
from tests.unit.test_step import make_table

FILE = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Settings:
    power: float
    def __post_init__(self):
        if not 0 <= self.power <= 1:
            raise ValueError("power must be in 0..1")

class InPlace:
    ramps = ("power",)
    def __call__(self, base, kept, facts):
        base.values.mul_(0.5)
        return base
    def state(self): return {}
    def restore(self, state): pass

class Nothing(InPlace):
    def __call__(self, base, kept, facts): pass
"""


def hooks_of(tmp_path, name, power=0.5, ramps=()):
    (tmp_path / "own.py").write_text(FILE)
    given = recipe(advantage=[f"{tmp_path}/own.py:{name}"], settings={"own": {"power": power}})
    return loaded_hooks(given, ramps=ramps)


def step_of(hooks):
    prompts = [make_prompt(f"p{i}", [IMAGE] * 2, extra_info={"name": f"p{i}"}) for i in range(2)]
    return one_step(replace(parts(make_table(prompts, random.Random(0))), hooks=hooks), prompts)


def test_a_rule_that_writes_in_place_shows_in_the_metric(tmp_path):
    metrics = step_of(hooks_of(tmp_path, "InPlace")).metrics
    before, after = (metrics[f"critic/advantages/size_{when}_rules"] for when in ("before", "after"))
    assert after == pytest.approx(before / 2) != 0


def test_a_rule_that_gives_nothing_is_refused_by_name(tmp_path):
    with pytest.raises(
        ConfigError, match=r"^recipe\.advantage: own:Nothing does not give Advantages; got NoneType; ret"
    ):
        step_of(hooks_of(tmp_path, "Nothing"))


@pytest.mark.parametrize(
    ("state", "key"),
    [({5: 1}, "5"), ({"seen": {5: 1}}, "5"), ({"seen": [0, {"a": ({None: 1},)}]}, "None"),
     ({"seen": {True: 1}}, "True")],
)  # fmt: skip
def test_a_state_with_keys_that_are_no_text_is_refused(state, key):
    with pytest.raises(
        ConfigError, match=rf"^recipe: the state of own:Rule has a key that is no text; got {key}; give"
    ):
        as_json("own:Rule", state)


def test_a_state_with_text_keys_comes_back_as_it_was():
    state = {"seen": {"5": [1, {"a": None}]}, "empty": {}, "rate": 0.1}
    assert json.loads(as_json("own:Rule", state)) == state


def test_settings_that_check_themselves_say_why(tmp_path):
    with pytest.raises(ConfigError, match=r"^recipe\.settings\.own: power must be in 0\.\.1; got \{'power': 3\.0\}$"):
        hooks_of(tmp_path, "InPlace", power=3.0)


def test_the_end_of_a_ramp_that_the_settings_refuse_is_named(tmp_path):
    key = "recipe.settings.own.power"
    ramp = Ramp(key=key, first=0.0, last=2.0, start=1, steps=2, shape="linear", slope=None)
    with pytest.raises(
        ConfigError, match=r"^ramps: recipe\.settings\.own\.power: power must be in 0\.\.1; got 2; give"
    ):
        hooks_of(tmp_path, "InPlace", ramps=[ramp])
