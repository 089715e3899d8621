"""A ramp of a file's setting is accepted only if all that reads the setting follows it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mars.changing_settings import at_step, read_once
from mars.config.ramp_section import Ramp
from mars.errors import ConfigError
from mars.hooks.contract import SamplerSetup
from mars.hooks.load import load_sampler
from mars.hooks.of_workers import image_transforms, token_rule
from tests.builders import make_prompt
from tests.hook_builders import loaded_hooks
from tests.shipped.recipes.token_facts import facts_of
from tests.unit.hooks.test_load import recipe

FILE = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Settings:
    power: float
    count: int
    low: float
    high: float
    name: str

    def __post_init__(self):
        if self.low > self.high:
            raise ValueError("low must not be above high")

class Shaping:
    part, on = "own", "multi"
    def __call__(self, item, facts): return [facts.settings.power] * len(item.multi.rollouts)

class Following(Shaping):
    ramps = ("power", "count", "low", "high", "name")

class Typed(Shaping):
    ramps = ("powr",)

class Text(Shaping):
    ramps = "power"

class Rule:
    def __call__(self, base, kept, facts): return base
    def state(self): return {}
    def restore(self, state): ...

class Tokens:
    passes, measures = (), False
    def __init__(self, settings): self.settings = settings
    def measure(self, facts): return {}
    def apply(self, facts, totals): return self.settings.power

class AtOnce(Tokens):
    def __init__(self, settings): self.power = settings.power

class Followed(Tokens):
    ramps = ("power",)
    def apply(self, facts, totals): return facts.now("own", self.settings).power

class Copied(Followed):
    def apply(self, facts, totals): return facts.now("first", self.settings).power

class Dark:
    def __init__(self, settings): self.settings = settings
    def __call__(self, image, rng, strength): return self.settings.power

def dark(settings): return lambda image, rng, strength, power=settings.power: power
def flat(settings): return lambda image, rng, strength, count=settings.count: count

class Sampler:
    def __init__(self, setup, settings): self.setup, self.settings = setup, settings
    def batch(self, round, left_out):
        if self.settings.count > 0 and self.settings.power > 0:
            return self.setup.sets[0][: self.setup.samples_per_prompt]
    def probes(self, step): return ()
    def observe(self, rollouts, step): return {}
    def state(self): return {}
    def restore(self, state): ...
"""
VALUES = {"power": 1.0, "count": 3, "low": 1.0, "high": 2.0, "name": "a"}
POWER = "recipe.settings.own.power"


def ramp(key: str = POWER, first=0.0, last=1.0, start=1, steps=4, shape="linear") -> Ramp:
    return Ramp(key=key, first=first, last=last, start=start, steps=steps, shape=shape, slope=None)


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(FILE)

    def made(**hooks):
        spec = lambda name: f"{tmp_path}/own.py:{name}"  # noqa: E731
        given = {
            key: {name: spec(one) for name, one in names.items()} if isinstance(names, dict)
            else [spec(one) for one in names] if isinstance(names, list) else spec(names)
            for key, names in hooks.items()
        }  # fmt: skip
        return recipe(**given, settings={"own": VALUES})

    return made


@pytest.mark.parametrize(
    "hooks",
    [
        {"shaping": ["Shaping"]},
        {"advantage": ["Rule"]},
        {"advantage": ["Rule"], "tokens": "Tokens"},
        {"shaping": ["Shaping"], "transforms": {"dark": "dark"}},
        {"shaping": ["Shaping"], "sampler": "Sampler"},
        {"sampler": "Sampler"},
        {"transforms": {"dark": "dark"}},
    ],
    ids=str,
)
def test_a_setting_that_no_hook_names_is_refused_whatever_other_hooks_are_in_the_file(own, hooks):
    with pytest.raises(
        ConfigError, match=rf"^ramps: {POWER}: no hook of the run reads it .*; got 'power'; leave this ramp out$"
    ):
        loaded_hooks(own(**hooks), ramps=[ramp()])


def test_a_setting_of_a_hook_that_the_run_does_not_have_is_refused(own):
    """`Following` is in the file and not in the run."""
    with pytest.raises(ConfigError, match=f"^ramps: {POWER}: no hook of the run reads it"):
        loaded_hooks(own(shaping=["Shaping"]), ramps=[ramp()])
    assert loaded_hooks(own(shaping=["Following"]), ramps=[ramp()]).scheduled(3) == {POWER: 0.5}


def test_what_reads_a_setting_once_cannot_read_one_that_changes(own):
    """Although a shaping of the file follows it."""
    given = own(shaping=["Following"], tokens="AtOnce", transforms={"dark": "dark", "flat": "flat"})
    reads_once = rf"^ramps: {POWER}: %s.* reads it once and not in each step, so that it would not follow; got a ramp"
    with pytest.raises(ConfigError, match=reads_once % r"recipe\.tokens: .*own\.py:AtOnce"):
        loaded_hooks(given, ramps=[ramp()])
    with pytest.raises(ConfigError, match=reads_once % r"recipe\.transforms\.dark: .*own\.py:dark"):
        image_transforms(given, [ramp()])
    count = [ramp("recipe.settings.own.low")]
    assert loaded_hooks(given, ramps=count).ramps == tuple(count)
    assert set(image_transforms(given, count)) == {"dark", "flat"}


def test_what_reads_it_later_cannot_either(own):
    given = own(shaping=["Following"], tokens="Tokens", transforms={"dark": "Dark"})
    loaded_hooks(given, ramps=[ramp()])
    rule = token_rule(given, with_reference=False, ramps=[ramp()])
    assert rule is not None
    for read in (
        lambda: rule.apply(None, {}),  # type: ignore[arg-type]
        lambda: image_transforms(given, [ramp()])["dark"](None, np.random.default_rng(0), 1.0),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError, match=f"^ramps: {POWER}: .* reads it once"):
            read()
    unchanged = token_rule(given, with_reference=False, ramps=[])
    assert unchanged is not None
    assert unchanged.apply(None, {}) == 1.0  # type: ignore[arg-type]


@pytest.mark.parametrize("others", [{}, {"recipe.settings.first.power": 0.5}], ids=["alone", "beside the first"])
def test_a_rule_that_reads_with_the_name_of_another_file_is_refused(own, others):
    """As a copy of a recipe in a folder of its own does, also if the run has a ramp of the first file too."""
    rule = token_rule(own(tokens="Copied"), with_reference=False, ramps=[ramp()])
    assert rule is not None
    made = replace(facts_of(torch.zeros(1), torch.zeros(1), [1]), settings={POWER: 0.25, **others})
    wrong = "reads its settings with `TokenFacts.now` as those of another file; got 'first'; give the rule's own"
    with pytest.raises(ConfigError, match=f"^ramps: {POWER}: the token rule {wrong}"):
        rule.apply(made, {})
    followed = token_rule(own(tokens="Followed"), with_reference=False, ramps=[ramp()])
    assert followed is not None
    assert followed.apply(made, {}) == 0.25
    unchanged = token_rule(own(tokens="Copied"), with_reference=False, ramps=[])
    assert unchanged is not None
    assert unchanged.apply(replace(made, settings={}), {}) == 1.0


@pytest.mark.parametrize(
    ("key", "is_read"),
    [(POWER, True), ("recipe.settings.own.low", False), ("rollout.samples_per_prompt", True),
     ("rollout.max_response_tokens", False)],
)  # fmt: skip
def test_a_sampler_cannot_read_what_changes(own, key, is_read):
    prompts = (make_prompt("p0"), make_prompt("p1"))
    rounds = load_sampler(own(sampler="Sampler"), SamplerSetup((prompts,), None, True, 2, 2, seed=0), None, [ramp(key)])
    assert rounds is not None
    if not is_read:
        assert rounds.batch(0) == prompts
        return
    with pytest.raises(ConfigError, match=rf"^ramps: {key}: recipe\.sampler: .*:Sampler reads it once"):
        rounds.batch(0)


@pytest.mark.parametrize(("name", "got"), [("Typed", r"\('powr',\)"), ("Text", "'power'")])
def test_names_that_are_none_are_refused(own, name, got):
    with pytest.raises(ConfigError, match=rf"^recipe: own:{name}\.ramps cannot be used; got {got}; give a tuple of"):
        loaded_hooks(own(shaping=[name]), ramps=[ramp()])


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (ramp("recipe.settings.own.count", 1, 2.5), "count: not an integer; got 2.5; give integers; those in between"),
        (ramp("recipe.settings.own.name", 1, 2), "name: no number; got 'a'; leave this ramp out"),
    ],
)
def test_an_end_of_another_type_is_refused(own, one, message):
    with pytest.raises(ConfigError, match=rf"^ramps: recipe\.settings\.own\.{message}"):
        loaded_hooks(own(shaping=["Following"]), ramps=[one])


def test_ramps_of_one_file_are_checked_together_in_each_step(own):
    """low 0 to 4 and high 3 to 5 over 4 steps fit in each step, and low's end 4 does not fit the composed high 2.

    Both ends fit where low is 0 to 2 over the first 4 steps and high 1 to 3 from step 5 on; step 4 has 1.5 and 1."""
    low, high = "recipe.settings.own.low", "recipe.settings.own.high"
    together = [ramp(low, 0, 4), ramp(high, 3, 5)]
    hooks = loaded_hooks(own(shaping=["Following"]), ramps=together)
    assert [hooks.scheduled(step) for step in (3, 5)] == [{low: 2.0, high: 4.0}, {low: 4.0, high: 5.0}]
    with pytest.raises(ConfigError, match=rf"^ramps: {low}, {high}: low must not be above high; got 4, 1; give"):
        loaded_hooks(own(shaping=["Following"]), ramps=[ramp(low, 0, 4), ramp(high, 3, 1)])
    crossing = [ramp(low, 0, 2), ramp(high, 1, 3, start=5)]
    with pytest.raises(ConfigError, match=rf"^ramps: {low}, {high}: .* above high; got 1\.5, 1 in step 4; give"):
        loaded_hooks(own(shaping=["Following"]), ramps=crossing)


@dataclass(frozen=True)
class Plain:
    one: float
    two: int

    @property
    def both(self):
        return self.one + self.two


@dataclass(frozen=True, slots=True)
class Slotted:
    one: float
    two: int

    @property
    def both(self):
        return self.one + self.two


@pytest.mark.parametrize("kind", [Plain, Slotted])
@given(one=st.floats(-9, 9), two=st.integers(-9, 9), changed=st.floats(-9, 9))
def test_a_guard_hides_one_setting_and_is_otherwise_the_same(kind, one, two, changed):
    settings = kind(one, two)
    guarded = read_once(settings, {"two": "recipe.settings.own.two"}, "recipe.sampler: own.py:Own")
    assert isinstance(guarded, kind)
    assert guarded.one == one
    found = at_step(guarded, {"two": changed})
    assert (type(found), found) == (kind, kind(one, round(changed)))
    assert at_step(guarded, {}) is guarded, "without values it would be read as if it did not change"
    for read in (lambda: guarded.two, lambda: replace(guarded, one=0.0), lambda: guarded.both):
        with pytest.raises(ConfigError, match="reads it once"):
            read()
