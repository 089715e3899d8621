"""At the start of a run, and in a dry run, each hook is made once, because making one may take time or memory."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from mars import run
from mars.checkpoint.resume import StartingPoint
from mars.checkpoint.state import START
from mars.checks import dry_run
from mars.config.ramp_section import Ramp
from mars.data.prompts.prepare import PromptSet
from tests.builders import train_config
from tests.unit.hooks.test_load import recipe
from tests.unit.hooks.test_prompt_sampler import PROMPTS

FILE = """
from dataclasses import dataclass
from pathlib import Path

from mars.algorithms.token_rule import TokenTerms

@dataclass(frozen=True)
class Settings:
    power: float

class Counted:
    ramps = ("power",)

    def __init__(self, *given):
        with (Path(__file__).parent / "made").open("a") as made:
            made.write(type(self).__name__ + "\\n")

class Bonus(Counted):
    part, on = "bonus", "multi"
    def __call__(self, item, facts): ...

class Rule(Counted):
    def __call__(self, base, kept, facts): return base
    def state(self): return {}
    def restore(self, state): ...

class Asks(Counted):
    def before(self, prompt, facts): return ()
    def after(self, item, facts): return ()

class Tokens(Counted):
    passes, measures = (), False
    def measure(self, facts): return {}
    def apply(self, facts, totals): return TokenTerms()

class Dark(Counted):
    def __call__(self, image, rng, strength): return image

class Sampler(Counted):
    def batch(self, round, left_out): ...
    def probes(self, step): return ()
    def observe(self, rollouts, step): return {}
    def state(self): return {}
    def restore(self, state): ...
"""
EVERY = Counter(["Bonus", "Rule", "Asks", "Tokens", "Dark", "Sampler"])
INPUTS = SimpleNamespace(
    train=PromptSet(PROMPTS, {}, "", dict.fromkeys((p.prompt_id for p in PROMPTS), 9)),
    evaluation=None,
    encoder=SimpleNamespace(opening=""),
)


class Started(Exception):
    """All is made that a run needs before its workers."""


@pytest.fixture
def config(tmp_path):
    """With a ramp that the rule follows, and with a reference model that a signal might read."""
    (tmp_path / "own.py").write_text(FILE)
    own = f"{tmp_path}/own.py"
    ramp = Ramp(key="recipe.settings.own.power", first=0.0, last=1.0, start=1, steps=2, shape="linear", slope=None)
    hooks = recipe(
        shaping=[f"{own}:Bonus"], advantage=[f"{own}:Rule"], requests=f"{own}:Asks", tokens=f"{own}:Tokens",
        transforms={"dark": f"{own}:Dark"}, sampler=f"{own}:Sampler", settings={"own": {"power": 0.5}},
    )  # fmt: skip
    moving = {"reference_decay": 0.5, "reference_every": 1}
    given = train_config({"run.dir": str(tmp_path)}, num_steps=7, **moving)
    return given.model_copy(update={"recipe": hooks, "ramps": [ramp]})


def made(tmp_path):
    return Counter((tmp_path / "made").read_text().split())


def test_a_run_makes_each_hook_once_and_tells_it_the_planned_steps(config, tmp_path, monkeypatch):
    planned = []

    def record_attempt(*given):
        raise Started

    changed = {
        "check_packages": lambda config: None,
        "_checked_inputs": lambda *given, **named: INPUTS,
        "enter_run": lambda config, lock: SimpleNamespace(events=None),
        "start_unless_complete": lambda *given: StartingPoint(START, None, None),
        "restored": lambda hooks, *given: planned.append(hooks.num_steps),
        "report_kept": lambda *given: nullcontext(),
        "failures_logged": lambda *given: nullcontext(),
        "record_attempt": record_attempt,
    }
    for name, fake in changed.items():
        monkeypatch.setattr(run, name, fake)
    with pytest.raises(Started):
        run.run(config, None, [], None)
    assert made(tmp_path) == EVERY
    assert planned == [7]


def test_a_dry_run_makes_each_hook_once(config, tmp_path, monkeypatch):
    monkeypatch.setattr(dry_run, "model_check", lambda *given, **named: nullcontext())
    monkeypatch.setattr(dry_run, "load_inputs", lambda *given, **named: INPUTS)
    for lines in ("sample_lines", "memory_lines"):  # they need a model, and no hook
        monkeypatch.setattr(dry_run, lines, lambda *given: [])
    dry_run.report(config)
    assert made(tmp_path) == EVERY
