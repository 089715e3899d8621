"""The section `recipe`: paths, names of files, and objects made with their settings."""

from __future__ import annotations

import pytest

from mars.config.load import load_config
from mars.config.recipe_section import RecipeConfig
from mars.errors import ConfigError
from mars.hooks.load import make_hook, resolved, settings_name, specs
from mars.plugin import record

NONE = RecipeConfig(sampler=None, shaping=[], advantage=[], requests=None, tokens=None, transforms={}, settings={})
FILE = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Settings:
    scale: float

@dataclass
class Rule:
    settings: Settings
    part = "own"

    def __call__(self, first, second): return first + second * self.settings.scale

def rule(number, settings): return Rule(Settings(number * settings.scale))

class WithoutPart:
    def __init__(self, settings): ...
    def __call__(self, first): ...

class Async:
    part = "own"
    def __init__(self, settings): ...
    async def __call__(self, first, second): ...
"""
MEMBERS = {"part": None, "__call__": 2}


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(FILE)
    return f"{tmp_path}/own.py"


def recipe(**changes) -> RecipeConfig:
    return NONE.model_copy(update=changes)


def test_paths_start_at_the_current_folder_else_at_the_shipped_recipes(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = recipe(sampler="own.py:Rule", shaping=["own.py:rule"], transforms={"masked": "recipe/mars/README.md:f"})
    found = resolved(given)
    assert (found.sampler, found.shaping) == (f"{own}:Rule", [f"{own}:rule"])
    assert found.transforms["masked"].endswith("/recipe/mars/README.md:f")
    assert found.transforms["masked"].startswith("/")
    (tmp_path / "recipe" / "mars").mkdir(parents=True)
    (tmp_path / "recipe" / "mars" / "README.md").touch()
    assert resolved(given).transforms["masked"] == f"{tmp_path}/recipe/mars/README.md:f"
    with pytest.raises(ConfigError, match=r"^recipe\.advantage: no such file; got 'other\.py:f'; want path"):
        resolved(recipe(advantage=["other.py:f"]))


def test_every_hook_is_recorded(own, tmp_path):
    given = recipe(sampler=f"{own}:Rule", shaping=[f"{own}:rule"], transforms={"masked": f"{own}:Async"})
    assert {key: found for key, found in specs(given).items() if found} == {
        "recipe.sampler": [f"{own}:Rule"],
        "recipe.shaping": [f"{own}:rule"],
        "recipe.transforms": [f"{own}:Async"],
    }
    assert [entry["function"] for entry in record(tmp_path, specs(given))["recipe.shaping"]] == ["rule"]
    assert specs(NONE).keys() == {f"recipe.{name}" for name in type(NONE).model_fields if name != "settings"}


def test_a_file_has_its_own_name_and_functions_py_that_of_its_folder(own, tmp_path):
    assert settings_name("/a/vade.py:f") == settings_name("/a/vade/functions.py:f") == "vade"
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "functions.py").write_text(FILE)
    with pytest.raises(ConfigError, match=r"^recipe\.settings\.own: stands for 2 files; got .*; rename all but one$"):
        resolved(recipe(sampler=f"{own}:Rule", shaping=[f"{tmp_path}/own/functions.py:Rule"]))


def test_settings_of_no_file_are_refused(own):
    with pytest.raises(ConfigError, match=r"^recipe\.settings\.owm: no file of the recipe has this name; .* own$"):
        resolved(recipe(sampler=f"{own}:Rule", settings={"owm": {"scale": 2.0}}))
    with pytest.raises(ConfigError, match=r"^recipe\.settings\.own: .*; leave it out$"):
        resolved(recipe(settings={"own": {"scale": 2.0}}))


@pytest.mark.parametrize(("name", "arguments", "result"), [("Rule", (), 7), ("rule", (3,), 19)])
def test_a_class_and_a_function_make_a_hook_from_their_settings(own, name, arguments, result):
    given = recipe(settings={"own": {"scale": 2.0}})
    assert make_hook(given, "recipe.shaping", f"{own}:{name}", MEMBERS, arguments, [])(1, 3) == result


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("WithoutPart", r"^recipe\.shaping: .*own\.py:WithoutPart makes a WithoutPart without 'part'; docs/extend"),
        ("Async", r"'__call__' is not a plain method"),
        ("rule", r"own\.py:rule takes \(number, settings\).*; want \(settings: Settings\)$"),
        ("Settings", r"makes a Settings without 'part'"),
        ("scale", r"has no 'scale'$"),
    ],
)
def test_what_is_no_hook_is_refused(own, name, message):
    with pytest.raises(ConfigError, match=message):
        make_hook(recipe(settings={"own": {"scale": 2.0}}), "recipe.shaping", f"{own}:{name}", MEMBERS, [], [])


def test_a_method_with_other_arguments_is_refused(own):
    with pytest.raises(ConfigError, match=r"__call__ takes \(first, second\), not 3 arguments"):
        make_hook(recipe(settings={"own": {"scale": 2.0}}), "recipe.shaping", f"{own}:Rule", {"__call__": 3}, [], [])


def test_the_section_is_strict_and_empty_by_default():
    assert load_config("train", ["data.train_files=[a]"], []).recipe == NONE


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("recipe.sampler=own", r"^recipe\.sampler: 'own' names no function; got 'own'; give path/to/file\.py:name"),
        ("recipe.shaping=[own.py:f,own.py:f]", r"recipe\.shaping: a name comes twice"),
        ("recipe.settings={own: 3}", r"^recipe\.settings: wrong type at \[own\]; got 3; give a mapping"),
        ("recipe.settings.own=3", r"^recipe\.settings\.own: one entry of recipe\.settings"),
        ("~recipe.settings.own.scale", r"^recipe\.settings\.own\.scale: cannot be removed"),
    ],
)
def test_wrong_settings_of_the_section_are_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config("train", ["data.train_files=[a]", override], [])


def test_one_value_of_a_file_is_changed_by_its_dotted_key():
    overrides = [
        "data.train_files=[a]",
        "recipe.settings={own: {scale: 1.0, name: x}}",
        "recipe.settings.own.scale=2.0",
    ]
    assert load_config("train", overrides, []).recipe.settings == {"own": {"scale": 2.0, "name": "x"}}
