"""`recipe.settings` as the dataclass that a user's file declares: strict, without defaults."""

from __future__ import annotations

from types import ModuleType

import pytest

from mars.errors import ConfigError
from mars.hooks.settings import read_settings
from mars.plugin import load

HEADER = """
from __future__ import annotations
from dataclasses import dataclass
from typing import Literal
"""
BODY = """
@dataclass(frozen=True)
class Settings:
    stage: Literal["s1", "s2"]
    scale: float
    bounds: tuple[float, float]
    names: list[str]
    limit: int | None

def f(settings): ...
"""
RIGHT = {"stage": "s1", "scale": 2, "bounds": [0.25, 1], "names": ["a"], "limit": None}


def module_of(tmp_path, text: str) -> ModuleType:
    (tmp_path / "own.py").write_text(HEADER + text)
    return load("recipe.sampler", f"{tmp_path}/own.py:f", "(settings)").module


def test_values_get_the_declared_types(tmp_path):
    module = module_of(tmp_path, BODY)
    settings = read_settings("recipe.settings.own", module, RIGHT)
    assert settings == module.Settings("s1", 2.0, (0.25, 1.0), ["a"], None)
    assert settings is not None
    assert type(settings) is module.Settings
    assert (type(settings.scale), type(settings.bounds)) == (float, tuple)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": "s3"}, r"^recipe\.settings\.own\.stage: .*'s1' or 's2'.*; got 's3'; give Literal\['s1', 's2'\]"),
        ({"scale": "2"}, r"^recipe\.settings\.own\.scale: .*valid number; got '2'; give float, as the file declares$"),
        ({"scale": float("inf")}, r"^recipe\.settings\.own\.scale: .*finite"),
        ({"bounds": [1]}, r"^recipe\.settings\.own\.bounds: .* at \[1\]; got"),
        ({"limit": True}, r"^recipe\.settings\.own\.limit: .*; got True; give int \| None"),
        ({"lmit": 3}, r"lmit: unknown setting; got 3; the settings are stage, scale, bounds, names, limit$"),
    ],
)
def test_wrong_values_are_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        read_settings("recipe.settings.own", module_of(tmp_path, BODY), RIGHT | changes)


def test_every_missing_value_is_named(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read_settings("recipe.settings.own", module_of(tmp_path, BODY), None)
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0].rpartition(".")[2] for line in lines] == [
        "stage",
        "scale",
        "bounds",
        "names",
        "limit",
    ]
    assert lines[1] == "recipe.settings.own.scale: not set; give float, as the file declares"


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("@dataclass(frozen=True)\nclass Settings:\n    a: int = 1", r"Settings has a default for a; leave it out"),
        ("@dataclass\nclass Settings:\n    a: int", r"Settings is not frozen"),
        ("class Settings:\n    a: int", r"Settings is no dataclass"),
        ("Settings = 3", r"Settings is no dataclass"),
        ("@dataclass(frozen=True)\nclass Settings:\n    a: Unknown", r"types of Settings cannot be read"),
    ],
)
def test_what_is_no_settings_class_is_refused(tmp_path, declared, message):
    module = module_of(tmp_path, f"{declared}\ndef f(settings): ...")
    with pytest.raises(ConfigError, match=message):
        read_settings("recipe.settings.own", module, {"a": 1})


def test_a_file_without_settings_takes_none(tmp_path):
    module = module_of(tmp_path, "def f(): ...")
    assert read_settings("recipe.settings.own", module, None) is None
    with pytest.raises(ConfigError, match=r"^recipe\.settings\.own: .*own\.py declares no class Settings; got"):
        read_settings("recipe.settings.own", module, {"a": 1})
