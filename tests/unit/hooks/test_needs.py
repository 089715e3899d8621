"""`NEEDS` of a user's file: settings with other values are refused before a run or a dry run does anything."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from mars import run
from mars.checks import dry_run
from mars.config.load import load_config
from mars.config.schema import TrainConfig
from mars.errors import ConfigError
from mars.hooks.load import with_resolved_recipe
from mars.hooks.needs import allowed

PAGE = (Path(__file__).parents[3] / "docs" / "extend.md").read_text(encoding="utf-8")
RULE = """
class Rule:
    def __call__(self, base, kept, facts): return base
    def state(self): return {}
    def restore(self, state): ...

def transform(): ...
"""
RAMP = "ramps=[{key: %s, first: 0.5, last: 1.0, start: 1, steps: 4, shape: linear, slope: null}]"


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A configuration whose advantage rule is in own.py, which needs what the test gives."""
    monkeypatch.chdir(tmp_path)

    def composed(needs: str, *overrides: str, hook: str = "recipe.advantage=[own.py:Rule]") -> TrainConfig:
        (tmp_path / "own.py").write_text(f"NEEDS = {needs}\n{RULE}")
        return load_config("train", ["data.train_files=[a]", hook, *overrides], [])

    return composed


def test_right_values_are_accepted_and_paths_are_absolute(config, tmp_path):
    needs = (
        """{"algorithm.selection": "all", "rollout.temperature": 1, "data.weights": None, "rollout.top_k": (0, 50)}"""
    )
    for top_k in (0, 50):
        given = config(needs, "algorithm.selection=all", f"rollout.top_k={top_k}")
        assert with_resolved_recipe(given).recipe.advantage == [f"{tmp_path}/own.py:Rule"]
    (tmp_path / "own.py").write_text(RULE)
    assert with_resolved_recipe(given).recipe.advantage == [f"{tmp_path}/own.py:Rule"]


def test_each_wrong_value_has_a_line(config, tmp_path):
    needs = """{"algorithm.selection": "nonzero_advantage", "data.weights": [1.0, 2.0], "rollout.top_k": (20, 50)}"""
    with pytest.raises(ConfigError) as caught:
        with_resolved_recipe(config(needs, "algorithm.selection=all", "rollout.top_k=0"))
    wrong = f"not a value that the hooks of {tmp_path}/own.py work with"
    assert str(caught.value).splitlines() == [
        f"algorithm.selection: {wrong}; got 'all'; give nonzero_advantage",
        f"data.weights: {wrong}; got null; give [1.0, 2.0]",
        f"rollout.top_k: {wrong}; got 0; give 20 or 50",
    ]


@pytest.mark.parametrize("hook", ["recipe.transforms={own: own.py:transform}", "recipe.tokens=own.py:Rule"])
def test_every_hook_of_the_file_has_its_needs(config, hook, tmp_path):
    (tmp_path / "asks.py").write_text("class Requests: ...\n")
    with pytest.raises(ConfigError, match=r"^data\.shuffle: .*own\.py work with; got true; give false$"):
        with_resolved_recipe(config('{"data.shuffle": False}', "recipe.requests=asks.py:Requests", hook=hook))


@pytest.mark.parametrize("start", [dry_run.report, lambda config: run.run(config, None, [], None)])
def test_a_run_and_a_dry_run_refuse_them_first(config, start, monkeypatch):
    for module, name in ((run, "check_packages"), (dry_run, "model_check")):
        monkeypatch.setattr(module, name, lambda *given, **named: pytest.fail("something else is done first"))
    with pytest.raises(ConfigError, match=r"^data\.shuffle: not a value"):
        start(config('{"data.shuffle": False}'))


def test_a_needed_setting_stays_as_it_is(config):
    given = config('{"rollout.temperature": (0.5, 1.0)}', RAMP % "rollout.temperature")
    problem = (
        r"^ramps: rollout\.temperature: the hooks of .*own\.py need rollout\.temperature=0\.5 or 1\.0 in every step"
    )
    with pytest.raises(ConfigError, match=problem):
        with_resolved_recipe(given)
    files = ["data.train_files=[a,b]", "data.weights=[1.0,2.0]", "algorithm.max_rounds=1", RAMP % "data.weights.0"]
    with pytest.raises(ConfigError, match=r"^ramps: data\.weights\.0: .* in every step; leave this ramp out$"):
        with_resolved_recipe(config('{"data.weights": [1.0, 2.0]}', *files))
    assert with_resolved_recipe(config('{"rollout.top_p": 1.0}', RAMP % "rollout.temperature", "rollout.top_p=1.0"))


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        ('["data.shuffle"]', r"own\.py: NEEDS is no mapping; got \['data\.shuffle'\]; give \{dotted key: value\}$"),
        ('{"algorithm.selecton": "all"}', r"NEEDS: algorithm\.selecton: unknown key; did you mean algorithm\."),
        ('{"algorithm": {}}', r"NEEDS: algorithm: unknown key; "),
        ('{"x9": 1}', r"NEEDS: x9: unknown key; docs/config\.md has all$"),
        ('{3: 1}', r"NEEDS: 3: unknown key; docs/config\.md has all$"),
        ('{"recipe.settings.own.power": 1}', r"NEEDS: recipe\.settings\.own\.power: unknown key"),
        ('{"algorithm.selection": "some"}', r"NEEDS: algorithm\.selection: not one of the choices; got 'some'; give"),
        ('{"data.shuffle": (True, 1)}', r"NEEDS: data\.shuffle: wrong type; got 1; give true or false$"),
        ('{"data.shuffle": ()}', r"NEEDS: data\.shuffle: an empty tuple; give a value that the hooks work with$"),
    ],
)  # fmt: skip
def test_what_no_configuration_can_have_is_refused(config, needs, message):
    with pytest.raises(ConfigError, match=message):
        with_resolved_recipe(config(needs))


def test_the_example_of_the_page_is_right(config):
    (needs,) = re.findall(r"```python\nNEEDS = (.*?)\n```", PAGE, re.DOTALL)
    right = [f"{key}={allowed(value)[-1]}" for key, value in ast.literal_eval(needs).items()]
    assert with_resolved_recipe(config(needs, *right))
    with pytest.raises(ConfigError, match="not a value that the hooks of"):
        with_resolved_recipe(config(needs))
