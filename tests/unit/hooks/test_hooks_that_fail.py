"""Exceptions in hooks, and results of a wrong type: each is refused with the setting and the name of the hook."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from mars.config.ramp_section import Ramp
from mars.errors import ConfigError
from mars.hooks.contract import PromptSampler, SamplerSetup
from mars.hooks.load import load_sampler
from mars.hooks.prompt_sampler import SampledRounds
from mars.hooks.settings import read_settings
from mars.hooks.step_hooks import Named
from tests.builders import make_prompt, make_rollouts
from tests.fakes.step import GRPO
from tests.hook_builders import loaded_hooks, step_hooks
from tests.unit.hooks.test_load import recipe
from tests.unit.hooks.test_step_hooks import KEPT, Halved

ITEM = make_rollouts("x", [1.0, 0.0], s0=[0.25])
PROMPTS = (make_prompt("a", []), make_prompt("b", []))
SETUP = SamplerSetup((PROMPTS,), None, True, 2, 4, 3)


def fails(*arguments):
    raise KeyError("x")


def requests_of(**methods):
    asks = SimpleNamespace(**{"before": lambda prompt, facts: (), "after": lambda item, facts: ()} | methods)
    return step_hooks(requests=Named("own:Asks", asks, None))


def shaping_of(function):
    shaping = type("Given", (), {"part": "own", "on": "multi", "__call__": lambda self, *given: function(*given)})()
    return step_hooks(shaping=(Named("own:Given", shaping, None),))


def rule_of(**methods):
    rule = type("Rule", (Halved,), {name: lambda self, *given, f=f: f(*given) for name, f in methods.items()})()
    return step_hooks(advantage=(Named("own:Rule", rule, None),))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shaping_of(fails).shaped([ITEM], 1), r"recipe\.shaping: own:Given failed on rows\.jsonl:x: KeyError"),
        (lambda: shaping_of(lambda *given: None).shaped([ITEM], 1), r"own:Given failed on rows\.jsonl:x: TypeError"),
        (lambda: shaping_of(lambda *given: ["a", "b"]).shaped([ITEM], 1), r"own:Given failed on .*: ValueError"),
        (lambda: shaping_of(lambda *given: (fails() for _ in "ab")).shaped([ITEM], 1), r"own:Given .*: KeyError: 'x'"),
        (lambda: rule_of(__call__=fails).weighted(KEPT, GRPO, 3), r"recipe\.advantage: own:Rule failed in step 3: Key"),
        (lambda: rule_of(state=fails).snapshot({}), r"recipe\.advantage: own:Rule failed when it gave its state: Key"),
        (
            lambda: rule_of(restore=fails).restore('{"sampler": {}, "advantage": {"own:Rule": {"seen": 1}}}'),
            r"recipe\.advantage: own:Rule failed when it got its state back: KeyError: 'x' \(.*:\d+\); correct it$",
        ),
        (
            lambda: requests_of(before=fails).asked_before(PROMPTS[0], 1),
            r"recipe\.requests: own:Asks failed in `before` on rows\.jsonl:a: KeyError",
        ),
        (lambda: requests_of(after=fails).asked_after(ITEM, 1), r"own:Asks failed in `after` on rows\.jsonl:x: KeyErr"),
        (
            lambda: requests_of(after=lambda *given: None).asked_after(ITEM, 1),
            r"own:Asks failed in `after` .*: Type",
        ),
    ],
)
def test_a_hook_that_fails_is_named(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def test_values_that_are_no_tensor_are_refused():
    rule = rule_of(__call__=lambda base, kept, facts: replace(base, weights=base.weights.tolist()))
    with pytest.raises(ConfigError, match=r"own:Rule gives weights that are no tensor; got list; use base\.weights"):
        rule.weighted(KEPT, GRPO, 1)


def rounds_of(**methods):
    sampler = {
        "batch": lambda round, left_out: PROMPTS,
        "probes": lambda step: (),
        "observe": lambda rollouts, step: {},
        "state": dict,
        "restore": lambda state: None,
    }
    return SampledRounds("own:Own", cast(PromptSampler, SimpleNamespace(**sampler | methods)), SETUP)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rounds_of(batch=fails).batch(4), r"own:Own failed when it chose round 4: KeyError: 'x' \(.*\); corr"),
        (lambda: rounds_of(batch=lambda *given: None).batch(4), r"own:Own failed when it chose round 4: TypeError"),
        (
            lambda: rounds_of(batch=lambda *given: ["a"]).batch(4),
            r"something else than prompts in round 4; got 'a'",
        ),
        (lambda: rounds_of(probes=fails).probes(2, 0), r"own:Own failed when it chose the probes of step 2: KeyError"),
        (lambda: rounds_of(observe=fails).observe([], 2), r"own:Own failed when it observed step 2: KeyError: 'x'"),
        (
            lambda: rounds_of(observe=lambda *given: None).observe([], 2),
            r"own:Own failed when it observed step 2: ",
        ),
        (lambda: rounds_of(observe=lambda *given: {"a": "high"}).observe([], 2), r"observed step 2: ValueError"),
        (lambda: rounds_of(state=fails), r"own:Own failed when it gave its state: KeyError"),
        (lambda: rounds_of(restore=fails).restore({}), r"own:Own failed when it got its state back: KeyError"),
    ],
)
def test_a_sampler_that_fails_is_named(call, message):
    with pytest.raises(ConfigError, match=rf"^recipe\.sampler: .*{message}"):
        call()


def test_a_round_may_come_from_a_generator():
    assert rounds_of(batch=lambda *given: (prompt for prompt in PROMPTS)).batch(0) == PROMPTS


FILE = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Settings:
    power: float
    def __post_init__(self):
        {0.0: 0, 1.0: 1}[self.power]

class Rule:
    ramps = ("power",)
    def __call__(self, base, kept, facts): return base
    def state(self): return {}
    def restore(self, state): pass

class Unmade(Rule):
    def __init__(self): self.missing

class Sampler:
    def __init__(self, setup, settings): setup.missing

class Nameless:
    part, on = ["own"], "all"
    def __call__(self, item, facts): return ()

class Odd(Rule):
    @property
    def state(self): return 1 / 0
"""


def own_rule(tmp_path, name, power=1.0, ramps=()):
    (tmp_path / "own.py").write_text(FILE)
    given = recipe(advantage=[f"{tmp_path}/own.py:{name}"], settings={"own": {"power": power}})
    return loaded_hooks(given, ramps=ramps)


def test_a_hook_that_cannot_be_made_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"^recipe\.advantage: .*own\.py:Unmade failed when it was made: Attribute"):
        own_rule(tmp_path, "Unmade")
    with pytest.raises(ConfigError, match=r"^recipe\.advantage: .*own\.py:Odd failed at its 'state': ZeroDivision"):
        own_rule(tmp_path, "Odd")
    shaping = recipe(shaping=[f"{tmp_path}/own.py:Nameless"], settings={"own": {"power": 1.0}})
    with pytest.raises(ConfigError, match=r"^recipe\.shaping: own:Nameless\.part is not a name; got \['own'\]; give a"):
        loaded_hooks(shaping)
    own = recipe(sampler=f"{tmp_path}/own.py:Sampler", settings={"own": {"power": 1.0}})
    with pytest.raises(ConfigError, match=r"^recipe\.sampler: .*own\.py:Sampler failed when it was made: Attribute"):
        load_sampler(own, SETUP, None, [])


def test_settings_whose_own_check_fails_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"^recipe\.settings\.own: .*own\.py: Settings failed: KeyError: 0\.5 \("):
        own_rule(tmp_path, "Rule", power=0.5)
    ramp = Ramp(key="recipe.settings.own.power", first=0.0, last=1.0, start=1, steps=2, shape="linear", slope=None)
    with pytest.raises(ConfigError, match=r"^ramps: recipe\.settings\.own\.power: Settings failed: KeyError: 0\.5"):
        own_rule(tmp_path, "Rule", ramps=[ramp])


def test_a_name_that_settings_lack_is_no_wrong_type(tmp_path):
    text = "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Settings:\n    a: int\n"
    module = SimpleNamespace(__file__="own.py")
    exec(text + "    def __post_init__(self): missing\n", module.__dict__)  # noqa: S102
    with pytest.raises(ConfigError, match=r"own\.py: Settings failed: NameError: name 'missing' is not defined"):
        read_settings("recipe.settings.own", module, {"a": 1})  # type: ignore[arg-type]
